"""How timm makes inputs of images, and which of its ways other programs cannot go."""
import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform, resolve_data_config

from timm_sbs.artifact.images import image_input, why_no_photographs

CFG = dict(input_size=(3, 32, 32), crop_pct=.8, interpolation='bicubic', crop_mode='center', mean=(.5,), std=(.25,))


@pytest.mark.parametrize('fields', [
    {}, dict(input_size=(3, 33, 33), crop_pct=.9), dict(input_size=(3, 32, 48), crop_mode='squash', crop_pct=.95)])
def test_sizes_are_those_of_timm(fields):
    """Its own transform, before it crops and makes numbers of an image."""
    found = image_input({**CFG, **fields})
    resize = create_transform(**resolve_data_config(pretrained_cfg={**CFG, **fields})).transforms[0]
    width, height = resize(Image.fromarray(np.zeros((90, 120, 3), np.uint8))).size
    assert (height, width) == found.resized if found.squash else min(height, width) == found.resized[0]
    assert found.mean == (.5,) * 3 and found.std == (.25,) * 3 and why_no_photographs(found, 10, {}) is None


@pytest.mark.parametrize('fields, says', [
    (dict(input_size=(1, 32, 32)), 'images of 1 channels'), (dict(mean=(.5, .5)), 'mean (0.5, 0.5)'),
    (dict(std=(0.,)), 'std (0.0, 0.0, 0.0)'),
    (dict(crop_mode='border'), "crop_mode is 'border'"), (dict(interpolation='random'), "interpolation is 'random'"),
    *((dict(crop_pct=crop_pct), f'crop_pct is {crop_pct}') for crop_pct in (-1., 1.5, 1e-9, 1e-320, float('nan')))])
def test_what_other_programs_do_not_do(fields, says):
    assert says in why_no_photographs(image_input({**CFG, **fields}), 10, {})


def test_nothing_has_no_classes():
    for classes in (0, 1):
        assert 'no classes' in why_no_photographs(image_input(CFG), classes, {})
    assert 'several of its labels' in why_no_photographs(image_input(CFG), 10, {'task': 'multi-label'})
