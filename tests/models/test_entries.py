"""The shipped entries as timm models: listed, described, licensed, and computing what was measured of them."""
import json
import os
import re

import pytest
import timm
import torch
from conftest import CIFAR_ALL, IMAGENET_ROUNDED, IMAGENET_SHIPPED, LITES, REPOSITORY, SHIPPED, file_bytes
from huggingface_hub import ModelCard
from PIL import Image
from processes import run
from timm.data import create_transform, resolve_data_config

import timm_sbs
from timm_sbs import SbsError
from timm_sbs.artifact.files import read_config
from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.cli.demo import FOLDER
from timm_sbs.common.entries import ENTRIES
from timm_sbs.data.accuracy import evaluate
from timm_sbs.models import entries

NONCOMMERCIAL = [IMAGENET_SHIPPED, IMAGENET_ROUNDED]
RECORDED = json.loads((REPOSITORY / 'tests' / 'data' / 'logits.json').read_text())


def results_of(name):
    return read_config(shipped_folder(name))[0].results


def description(model):
    return {name: value for name, value in model.pretrained_cfg.items() if name != 'hf_hub_id'}


def test_all_are_listed_as_pretrained_and_created_offline_but_those_whose_package_is_not_installed():
    code = (
        'import sys, timm, timm_sbs\n'
        "sys.path = [path for path in sys.path if not path.endswith('noncommercial')]\n"
        "for name in timm.list_models('sbs*', pretrained=True):\n"
        '    for create in (lambda: timm.create_model(name, pretrained=True), lambda: timm_sbs.load(name)):\n'
        '        try:\n'
        '            create()\n'
        '            print(name)\n'
        '        except timm_sbs.SbsError as e:\n'
        '            print(e)')
    done = run('-c', code, env={**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_ENDPOINT': 'http://127.0.0.1:9'})
    said = done.stdout.splitlines()
    assert not done.returncode and sorted(said)[-16:] == sorted([*CIFAR_ALL, *LITES] * 2)
    refused = [line for line in said if "permits no commercial use" in line and './noncommercial' in line]
    assert len(refused) == 4 and all(name in ''.join(refused) for name in NONCOMMERCIAL)


def test_what_is_not_a_network_is_known_but_not_listed():
    assert timm.is_model('sbs') and 'sbs' not in timm.list_models() + timm.list_models(include_tags=True)
    for pretrained in (False, True):
        with pytest.raises(SbsError, match="'sbs' is not a network"):
            timm.create_model('sbs', pretrained=pretrained)


@pytest.mark.parametrize('name', [SHIPPED, *LITES, *NONCOMMERCIAL])
def test_entry_points_are_functions_of_their_own(name):
    """As timm's own ones: under their names, with a documentation, in the module that lists them."""
    create = timm.models.model_entrypoint(name)
    assert create is getattr(entries, name) and create.__name__ == create.__qualname__ == name
    assert create.__module__ == 'timm_sbs.models.entries' and name in entries.__all__
    assert ENTRIES[name].text in create.__doc__ and timm.get_pretrained_cfg(name).license in create.__doc__


@pytest.mark.parametrize('name', [SHIPPED, *LITES, *NONCOMMERCIAL])
def test_one_description_wherever_a_model_comes_from(name):
    entry = timm.create_model(name, pretrained=True)
    folder = f'local-dir:{shipped_folder(name)}'
    others = [timm.create_model(name), timm.create_model(folder, pretrained=True), timm.create_model(folder),
              timm_sbs.load(name).create_model()]
    assert all(description(other) == description(entry) for other in others)
    assert others[0].pretrained_cfg == entry.pretrained_cfg and entry.pretrained_cfg['hf_hub_id'] == f'timm-sbs/{name}'
    assert entry.pretrained_cfg['architecture'] == ENTRIES[name].base and 'tag' not in entry.pretrained_cfg
    assert not any(isinstance(value, list) for value in entry.pretrained_cfg.values())
    original = timm.get_pretrained_cfg(ENTRIES[name].weights or ENTRIES[name].base).to_dict()
    for field in ('mean', 'std', 'input_size', 'interpolation', 'crop_pct', 'first_conv', 'classifier'):
        assert json.dumps(entry.pretrained_cfg[field]) == json.dumps(original[field]), field  # lists and tuples alike


@pytest.mark.parametrize('name, threads', [*((name, 1) for name in CIFAR_ALL), (SHIPPED, 2)])
def test_it_computes_the_recorded_logits_and_about_the_recorded_accuracy(name, threads, images):
    """Logits that were recorded once, maybe elsewhere; accuracy on 500 of 10,000 images."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = timm.create_model(name, pretrained=True).eval()
        with torch.inference_mode():
            logits = model(images[0][:8])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(logits, torch.tensor(RECORDED[name]), atol=1e-3, rtol=0)
    assert evaluate(model, [images]).top1 == pytest.approx(results_of(name)['top1'], abs=4)


@pytest.mark.parametrize('name, most', [
    (IMAGENET_SHIPPED, 4_200_000), (IMAGENET_ROUNDED, 2_000_000), (LITES[0], 1_500_000), (LITES[1], 3_800_000),
    ('sbs_resnet20_cifar10_30kb', 30_000), ('sbs_resnet20_cifar10_50kb', 50_000),
    ('sbs_resnet56_cifar10_80kb', 80_000), ('sbs_resnet56_cifar10_120kb', 120_000)])
def test_it_is_as_small_as_its_name_says(name, most):
    assert file_bytes(shipped_folder(name)) <= most
    if share := re.search(r'(\d+)pct', name):
        results = results_of(name)
        assert results['predictor_parameters'] <= int(share[1]) / 100 * results['original_parameters']


def test_both_resnet18s_see_the_same_in_a_photograph():
    models = [timm.create_model(name, pretrained=True).eval() for name in NONCOMMERCIAL]
    transform = create_transform(**resolve_data_config(pretrained_cfg=dict(models[0].pretrained_cfg)))
    image = transform(Image.open(FOLDER / 'coffee.jpg').convert('RGB'))[None]
    with torch.inference_mode():
        expected, found = (model(image).softmax(1)[0] for model in models)
    assert expected.argmax() == found.argmax() and float((expected - found).abs().sum()) < 0.6


@pytest.mark.parametrize('name', NONCOMMERCIAL)
def test_the_licence_of_the_weights_is_told_wherever_it_is_looked_for(name):
    licences = timm.get_pretrained_cfg(name).license, read_config(shipped_folder(name))[1].pretrained_cfg['license']
    assert set(licences) == {'cc-by-nc-4.0'}
    licence = (shipped_folder(name) / 'LICENSE').read_text()
    assert 'NonCommercial 4.0' in licence and '1907.05686' in licence and 'Soumith Chintala' in licence
    card = ModelCard.load(REPOSITORY / 'hub_cards' / f'{name}.md')
    assert card.data.license == 'cc-by-nc-4.0' and 'easy sample' in card.text
    assert card.data.eval_results is None  # 1,300 photographs are not the data set's validation


def test_what_ships_inside_the_package_may_be_used_by_anyone():
    assert {timm.get_pretrained_cfg(name).license for name in (*CIFAR_ALL, *LITES)} == {'bsd-2-clause', 'apache-2.0'}
