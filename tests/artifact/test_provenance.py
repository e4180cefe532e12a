import pytest
import safetensors.torch
import timm
import torch
from conftest import RESNET20, SHIPPED

from timm_sbs.artifact.provenance import proved_description

CLAIMS = ('license', 'tag', 'hf_hub_id', 'url', 'origin_url', 'paper_ids')


def claims(model, *args, **kwargs):
    described = proved_description(model, *args, **kwargs)
    assert described['mean'] == model.pretrained_cfg['mean'] and described['architecture']
    return {name: described[name] for name in CLAIMS if described.get(name)}


@pytest.fixture()
def cached(monkeypatch, tmp_path):
    """The published weights of ResNet-20 in torch's cache, as timm downloads them."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    torch.save({'state_dict': safetensors.torch.load_file(RESNET20)}, tmp_path / 'checkpoints' / 'resnet20-12fca82f.th')


@pytest.mark.parametrize('make', [
    lambda: timm.create_model('resnet18', num_classes=5), lambda: timm.create_model('resnet20_cifar10'),
    lambda: timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20), lambda: timm.create_model(SHIPPED)])
def test_nothing_is_claimed_of_weights_that_timm_did_not_load(make):
    assert claims(make()) == {}


def test_weights_that_equal_the_entrys_are_the_entrys(cached):
    model = timm.create_model('resnet20_cifar10', pretrained=True)
    assert claims(model)['license'] == 'bsd-2-clause' and claims(model)['tag'] == 'akamaster'
    assert claims(model.bfloat16())['license'] == 'bsd-2-clause'
    with torch.no_grad():
        model.layer2[0].conv1.weight[0, 0, 0, 0] += 1  # trained further
    assert claims(model) == {}
    assert claims(timm.create_model('resnet20_cifar10', pretrained=True, num_classes=3)) == {}
    assert claims(timm.create_model('resnet20_cifar10', pretrained=True, num_classes=0))['license'] == 'bsd-2-clause'


def test_weights_in_the_hubs_cache_are_looked_at_without_the_hub(monkeypatch, tmp_path):
    model = timm.create_model('resnet18')
    file = tmp_path / 'model.safetensors'
    safetensors.torch.save_file(model.state_dict(), file)
    asked = []
    monkeypatch.setattr('timm_sbs.artifact.provenance.try_to_load_from_cache', lambda repository, name, **_: (
        asked.append(repository), str(file) if name == 'model.safetensors' else None)[1])
    assert claims(model)['hf_hub_id'] == 'timm/resnet18.a1_in1k' == asked[0]
    model.fc.bias.data[0] += 1
    assert claims(model) == {}


def test_a_created_model_that_was_not_trained_is_the_artifacts():
    model = timm.create_model(SHIPPED, pretrained=True)
    assert claims(model)['license'] == 'bsd-2-clause' and claims(model)['hf_hub_id'] == f'timm-sbs/{SHIPPED}'
    model.linear.bias.data.zero_()
    assert claims(model) == {}


def test_the_user_knows_better():
    random = timm.create_model('resnet20_cifar10')
    assert claims(random, license='mit', base_model='me/mine') == {'license': 'mit', 'hf_hub_id': 'me/mine'}
    assert claims(random, 'local-dir:somewhere') == {}
    assert claims(random, 'resnet20_cifar10')['license'] == 'bsd-2-clause'  # it was loaded just now
