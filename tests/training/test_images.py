"""Fits on images: of one channel and others, with some that cannot be read, and of networks with other outputs."""
import shutil

import pytest
import timm
import torch

from timm_sbs.data.outputs import outputs_of
from timm_sbs.training.fit import fit

# Most weights are stored as they are, which takes least time.
ROUND = dict(bytes='66k', keep=['layer[23].*'], mixed_precision='no', workers=0, distillation_steps=0, quiet=True,
             statistics_images=40, batch_size=20)
PREDICT = dict(pct=10, keep=['layer3.*'], mixed_precision='no', workers=0, reconstruction_steps=20,
               second_order_steps=3, distillation_steps=2, statistics_images=40, batch_size=20, mixup=0.5, quiet=True)
DRAWN = dict(data_free=True, synthetic_images=40, synthetic_steps=2)


@pytest.fixture()
def network(small_model):
    def make(**kwargs):
        """A network with the trained weights that it has a place for; a single output is the logit of 'deer'."""
        state, model = small_model.state_dict(), timm.create_model('resnet8_cifar10', **kwargs).eval()
        if kwargs.get('num_classes') == 1:
            state['linear.weight'], state['linear.bias'] = state['linear.weight'][4:5], state['linear.bias'][4:5]
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: tensor for name, tensor in state.items() if tensor.shape == shapes.get(name)},
                              strict=False)
        return model

    return make


def outputs(model, images):
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize('settings', [ROUND, PREDICT])
def test_agreement_of_one_output_is_that_of_its_sign(network, image_folder, images, settings):
    original = network(num_classes=1)
    artifact = fit(original, **settings, images=image_folder / 'train', holdout_images=200)
    signs = [outputs(model, images[0]) > 0 for model in (original, artifact.create_model())]
    assert artifact.results['holdout_divergence'] > 0
    agreement = 100 * float((signs[0] == signs[1]).float().mean())
    assert artifact.results['holdout_agreement'] == pytest.approx(agreement, abs=6)


def test_features_of_headless_networks_are_compared(network, image_folder, images, capsys, tmp_path):
    """With all figures that are measured both files are as small as asked."""
    original = network(num_classes=0)
    artifact = fit(original, **{**ROUND, 'quiet': False}, data_dir=image_folder, output=tmp_path)
    files = [(tmp_path / name).stat().st_size for name in ('config.json', 'model.safetensors')]
    assert 65_000 < sum(files) <= 66_000
    expected, found = (outputs(model, images[0][::5]) for model in (original, artifact.create_model()))
    similarity = float(100 * torch.cosine_similarity(expected, found).mean())
    assert artifact.results['agreement'] == pytest.approx(similarity, abs=0.01) and similarity < 99.999
    assert 'top1' not in artifact.results and artifact.results['images'] == 100
    assert 'features of the network are compared' in capsys.readouterr().out


@pytest.mark.parametrize('classes, task', [(10, 'multi-label'), (1, 'auto'), (0, 'auto'), (10, 'embedding')])
def test_distillation_brings_outputs_of_every_kind_nearer(network, image_folder, images, classes, task):
    """By the measure that fits them, on images that were held out."""
    original, folder = network(num_classes=classes), image_folder / 'train'
    settings = dict(PREDICT, mixup=0, train_statistics=False, task=task, images=folder, holdout_images=100)
    fitted, trained = (fit(original, **{**settings, 'distillation_steps': steps}) for steps in (0, 20))
    kind = outputs_of(original, task)
    expected, *found = (outputs(model, images[0][::5]) for model in (
        original, fitted.create_model(), trained.create_model()))
    before, after = (float(kind.divergences(each, expected).mean()) for each in found)
    assert 0 < after < 0.9 * before
    assert trained.results['holdout_divergence'] < 0.9 * fitted.results['holdout_divergence']
    assert trained.results['task'] == kind.task and 'top1' not in trained.results


def test_labels_may_be_drawn(network):
    original = network(num_classes=3)
    assert fit(original, **ROUND, **DRAWN, task='multi-label').results['task'] == 'multi-label'


@pytest.mark.parametrize('kwargs', [dict(in_chans=1), dict(in_chans=2), dict(num_classes=0)])
def test_drawn_images_have_the_channels_of_any_network(network, kwargs):
    artifact = fit(network(**kwargs), **ROUND, **DRAWN)
    assert artifact.results['statistics_images'] == 40 and artifact.results['data_free'] == 'inversion'


def test_files_that_cannot_be_read_are_told_even_where_a_run_is_quiet(network, image_folder, tmp_path, capsys):
    shutil.copytree(image_folder / 'train' / 'cat', tmp_path / 'cats')
    (tmp_path / 'cats' / '003.png').write_text('no picture')
    fit(network(in_chans=1), **{**ROUND, 'statistics_images': 1000}, images=tmp_path / 'cats')
    told = capsys.readouterr().out
    assert told.count('warning: ') == told.count('\n') == 1 and '003.png' in told


def test_a_network_that_has_lost_its_function_is_told(resnet20, image_folder, capsys):
    few = dict(pct=8, keep=['layer3.*'], reconstruction_steps=2, second_order_steps=1, distillation_steps=0)
    fit(resnet20, **{**PREDICT, **few, 'quiet': False}, images=image_folder / 'train')
    assert 'warning: Only ' in capsys.readouterr().out
