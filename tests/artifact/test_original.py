"""Original weights come from caches, files and hosts that answer; what is claimed of a model's weights is proved."""
import os
import socket
import time

import pytest
import safetensors.torch
import timm
import torch
from conftest import RESNET20, SHIPPED
from huggingface_hub import constants

from timm_sbs import SbsError
from timm_sbs.artifact import hub
from timm_sbs.artifact.original import load_original, proved_description
from timm_sbs.common.errors import TargetError


@pytest.fixture(params=['refuses', 'never answers'])
def host(request, monkeypatch, tmp_path):
    """A host on this machine that serves nothing, and empty caches."""
    monkeypatch.setattr(hub, 'PATIENCE', 0.3)
    monkeypatch.setattr(time, 'sleep', lambda seconds: pytest.fail('it is tried again'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'torch'))
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = f'http://127.0.0.1:{server.getsockname()[1]}'
        if request.param == 'refuses':
            server.close()
        monkeypatch.setattr(constants, 'ENDPOINT', address)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', address + '/{repo_id}/{revision}/{filename}')
        yield address


def described(monkeypatch, **fields):
    """timm's entry of test_resnet, with other sources."""
    cfg = timm.get_pretrained_cfg('test_resnet')
    for name, value in {'url': '', 'hf_hub_id': None, **fields}.items():
        monkeypatch.setattr(cfg, name, value)
    monkeypatch.setattr(timm, 'get_pretrained_cfg', lambda name: cfg)
    monkeypatch.setattr('timm.models._builder.get_pretrained_cfg', lambda name: cfg)


@pytest.mark.parametrize('name', ['test_resnet', 'resnet18.tv_in1k', 'hf-hub:user/network', 'hf-hub:user/network@v2'])
def test_a_hub_out_of_reach_is_told_at_once(host, name):
    with pytest.raises(SbsError, match='not in the local cache and the Hub cannot be reached .*name a file'):
        load_original(name)
    assert constants.HF_HUB_OFFLINE is False


def test_another_host_out_of_reach_is_told_at_once(host, monkeypatch):
    described(monkeypatch, url=host + '/test_resnet.pth')
    with pytest.raises(SbsError, match=r'not in the local cache and 127\.0\.0\.1:\d+ cannot be reached'):
        load_original('test_resnet')


def test_weights_in_a_cache_need_no_network(host, monkeypatch, tmp_path):
    model = timm.create_model('test_resnet')
    snapshot = tmp_path / 'hub' / 'models--user--network' / 'snapshots' / ('a' * 40)
    timm.models.save_for_hf(model, snapshot, safe_serialization=True)
    (snapshot.parents[1] / 'refs').mkdir()
    (snapshot.parents[1] / 'refs' / 'main').write_text('a' * 40)
    os.makedirs(tmp_path / 'torch' / 'checkpoints')
    torch.save(model.state_dict(), tmp_path / 'torch' / 'checkpoints' / 'network.pth')
    loaded = [load_original('hf-hub:user/network')]
    for sources in (dict(hf_hub_id='user/network'), dict(url=host + '/network.pth')):
        described(monkeypatch, **sources)
        loaded.append(load_original('test_resnet'))
    for found in loaded:
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


def test_offline_mode_is_respected(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(socket.socket, 'connect', lambda *_: pytest.fail('it connects'))
    with pytest.raises(SbsError, match='HF_HUB_OFFLINE is set'):
        load_original('resnet18')
    assert constants.HF_HUB_OFFLINE is True


def test_names_that_timm_does_not_know():
    with pytest.raises(TargetError, match="has no model 'resnet19'"):
        load_original('resnet19')
    with pytest.raises(TargetError, match=r"has no weights 'resnet18\.mine'.*list_pretrained\('resnet18"):
        load_original('resnet18.mine')
    with pytest.raises(SbsError, match='is not a file'):
        load_original('resnet18', 'missing.pth')
    assert not any(p.requires_grad for p in load_original('resnet20_cifar10', str(RESNET20)).parameters())


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
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(socket.socket, 'connect', lambda *_: pytest.fail('it connects'))
    model = timm.create_model('resnet18')
    assert claims(model) == {}  # nothing is cached
    repository = tmp_path / 'models--timm--resnet18.a1_in1k'
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs' / 'main').write_text('a' * 40)
    timm.models.save_for_hf(model, repository / 'snapshots' / ('a' * 40), safe_serialization=True)
    assert claims(model)['hf_hub_id'] == 'timm/resnet18.a1_in1k' and constants.HF_HUB_OFFLINE is False
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
