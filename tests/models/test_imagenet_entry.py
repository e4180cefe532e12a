"""The headline: timm.create_model('sbs_resnet18_15pct', pretrained=True), from the predictor inside the package."""
import json

import pytest
import timm
import torch
from conftest import IMAGENET_ALL, IMAGENET_ROUNDED, IMAGENET_SHIPPED, REPOSITORY
from huggingface_hub import ModelCard
from PIL import Image
from timm.data import create_transform, resolve_data_config

from timm_sbs.artifact import download as hub
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import artifact_bytes, load_artifact, read_config
from timm_sbs.cli import main as cli
from timm_sbs.cli.demo_photographs import FOLDER, classify_photographs
from timm_sbs.training.design.sizing import continue_artifact

FOLDER_OF_PREDICTOR = shipped_folder(IMAGENET_SHIPPED)


@pytest.fixture(scope='module')
def model():
    def no_network(*args, **kwargs):
        raise AssertionError('the predictor is inside the package')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, 'download', no_network)
        return timm.create_model(IMAGENET_SHIPPED, pretrained=True).eval()


def test_it_is_a_resnet18_as_timm_builds_it(model):
    plain = timm.create_model('resnet18')
    assert type(model) is type(plain) and list(model.state_dict()) == list(plain.state_dict())
    assert model.num_classes == 1000 and timm.is_model_pretrained(IMAGENET_SHIPPED)
    cfg, original = model.pretrained_cfg, timm.get_pretrained_cfg('resnet18.tv_in1k').to_dict()
    for field in ('mean', 'std', 'input_size', 'interpolation', 'crop_pct', 'first_conv', 'classifier'):
        assert json.dumps(cfg[field]) == json.dumps(original[field]), field  # lists and tuples alike


@pytest.mark.parametrize('name, largest', [*zip(IMAGENET_ALL, (4_200_000, 2_850_000))])
def test_predictor_and_files_are_as_small_as_promised(name, largest):
    folder = shipped_folder(name)
    results = read_config(folder)[0].results
    assert results['predictor_parameters'] <= 0.15 * results['original_parameters']
    assert results['original_parameters'] == sum(p.numel() for p in timm.create_model('resnet18').parameters())
    assert artifact_bytes(folder) <= largest


def test_rounded_weights_take_less_than_half_of_the_predictors_bytes():
    results = read_config(shipped_folder(IMAGENET_ROUNDED))[0].results
    assert results['predictor_parameters'] == 0
    assert artifact_bytes(shipped_folder(IMAGENET_ROUNDED)) < artifact_bytes(FOLDER_OF_PREDICTOR) / 2


@pytest.mark.parametrize('name', [*IMAGENET_ALL, IMAGENET_ROUNDED])
def test_recorded_accuracy_is_within_two_points_of_the_originals(name):
    results = read_config(shipped_folder(name))[0].results
    assert results['images'] == 1300 and results['original_top1'] - results['top1'] <= 2
    assert 'easy sample' in results['measured_on']


def test_photographs_are_classified_as_by_the_original(model):
    photographs, _ = classify_photographs()
    assert len(photographs) == 3
    for photograph in photographs:
        assert photograph.generated[0][0] == photograph.original[0][0]
        shared = {name for name, _ in photograph.original} & {name for name, _ in photograph.generated}
        assert len(shared) >= 4, photograph.title


def test_the_demo_shows_them(capsys, tmp_path):
    assert cli.main(['demo', '--plot', str(tmp_path / 'picture.png')]) == 0
    assert Image.open(tmp_path / 'picture.png').size[0] > 500
    shown = capsys.readouterr().out
    assert f'{IMAGENET_SHIPPED}, created' in shown and shown.count('espresso') >= 2 and 'CC0' in shown


def test_other_heads_stems_and_features(model):
    other = timm.create_model(IMAGENET_SHIPPED, pretrained=True, num_classes=7, in_chans=1).eval()
    assert other(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    assert torch.equal(other.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    features = timm.create_model(IMAGENET_SHIPPED, pretrained=True, features_only=True).eval()
    assert [tuple(x.shape[1:]) for x in features(torch.zeros(1, 3, 64, 64))] == [
        (64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]


def test_the_small_one_sees_the_same_in_a_photograph(model):
    small = timm.create_model(IMAGENET_ALL[1], pretrained=True).eval()
    assert small.pretrained_cfg['license'] == 'cc-by-nc-4.0'
    transform = create_transform(**resolve_data_config(pretrained_cfg=dict(model.pretrained_cfg)))
    image = transform(Image.open(FOLDER / 'coffee.jpg').convert('RGB'))[None]
    with torch.inference_mode():
        expected, found = (network(image).softmax(1)[0] for network in (model, small))
    assert expected.argmax() == found.argmax() and float((expected - found).abs().sum()) < 0.6


@pytest.mark.parametrize('name', IMAGENET_ALL)
def test_its_licence_is_told_wherever_it_is_looked_for(name):
    assert timm.get_pretrained_cfg(name).license == 'cc-by-nc-4.0'
    assert read_config(shipped_folder(name))[1]['license'] == 'cc-by-nc-4.0'
    licence = (shipped_folder(name) / 'LICENSE').read_text()
    assert 'NonCommercial 4.0' in licence and '1907.05686' in licence and 'Soumith Chintala' in licence
    card = ModelCard.load(REPOSITORY / 'hub_cards' / f'{name}.md')
    assert card.data.license == 'cc-by-nc-4.0' and 'easy sample' in card.text
    assert card.data.eval_results is None  # 1,300 photographs are not the data set's validation
    assert 'CC BY-NC 4.0' in (REPOSITORY / 'NOTICE').read_text()
    assert f'`{name}`' in (REPOSITORY / 'README.md').read_text()


def test_photographs_may_be_shipped_and_are_small():
    entries = json.loads((FOLDER / 'photographs.json').read_text())['photographs']
    assert all('CC0' in entry['source'] or 'public domain' in entry['source'] for entry in entries)
    assert sum((FOLDER / entry['file']).stat().st_size for entry in entries) < 80_000


def test_training_it_further_keeps_its_licence():
    original = timm.create_model('resnet18').requires_grad_(False).eval()
    assert original.pretrained_cfg['license'] == 'apache-2.0'
    artifact = continue_artifact(load_artifact(FOLDER_OF_PREDICTOR), original)
    assert artifact.base.pretrained_cfg['license'] == 'cc-by-nc-4.0'
