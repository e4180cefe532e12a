"""What a user reads when the Hub does not give a predictor. No network: the client is told to stay offline."""
import json
import os
import socket
import threading

import pytest
import timm
from conftest import SHIPPED
from hub_server import running_hub
from processes import run

from timm_sbs import SbsError
from timm_sbs.artifact import download as hub
from timm_sbs.artifact.folder import load_artifact


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)


def cached_snapshot(cache, name):
    """An empty snapshot of 'user/NAME' in a cache of huggingface_hub."""
    repository, revision = cache / f'models--user--{name}', 'a' * 40
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs' / 'main').write_text(revision)
    snapshot = repository / 'snapshots' / revision
    snapshot.mkdir(parents=True)
    return snapshot


def test_offline_and_not_cached_says_so(tmp_path):
    with pytest.raises(SbsError, match="'user/predictor@v1' is not in the local cache and the Hub cannot be reached"):
        hub.download('user/predictor@v1', cache_dir=tmp_path)


def test_impossible_repository_names(tmp_path):
    with pytest.raises(SbsError, match='is no repository name'):
        hub.download('a/b/c', cache_dir=tmp_path)


def test_an_overlay_that_names_a_repository_is_followed(tmp_path):
    """Instead of the predictor in the package, which is for the entry's own repository."""
    with pytest.raises(SbsError, match="'user/predictor' is not in the local cache"):
        timm.create_model(
            SHIPPED, pretrained=True, cache_dir=tmp_path, pretrained_cfg_overlay=dict(hf_hub_id='user/predictor'))


def test_a_repository_can_not_point_to_local_files(tmp_path, small_folder):
    """Its config.json is found in the cache, and names a folder of this machine. That folder is not read."""
    snapshot = cached_snapshot(tmp_path, 'other')
    root = json.loads((small_folder / 'config.json').read_text())
    root['pretrained_cfg']['file'] = str(small_folder)
    (snapshot / 'config.json').write_text(json.dumps(root))
    with pytest.raises(SbsError, match='is not in the local cache'):
        timm.create_model('hf-hub:user/other', pretrained=True, cache_dir=tmp_path)


def test_files_in_the_cache_are_found_offline(tmp_path, small_folder):
    snapshot = cached_snapshot(tmp_path, 'predictor')
    for path in small_folder.iterdir():
        path.rename(snapshot / path.name)
    assert hub.download('user/predictor', cache_dir=tmp_path) == snapshot
    model = timm.create_model('hf-hub:user/predictor', pretrained=True, cache_dir=tmp_path)
    assert model.pretrained_cfg['hf_hub_id'] == 'user/predictor'
    (snapshot / 'model.safetensors').unlink()
    random = timm.create_model('hf-hub:user/predictor', cache_dir=tmp_path)  # for which config.json is enough
    assert type(random) is type(model) and random.num_classes == 10


def test_a_licence_is_fetched_where_there_is_one(tmp_path, small_folder):
    snapshot = cached_snapshot(tmp_path, 'predictor')
    for path in small_folder.iterdir():
        path.rename(snapshot / path.name)
    assert hub.download('user/predictor', cache_dir=tmp_path, optional=['LICENSE']) == snapshot
    assert load_artifact(snapshot).license_text is None
    (snapshot / 'LICENSE').write_text('for nobody')
    assert load_artifact(hub.download('user/predictor', cache_dir=tmp_path, optional=['LICENSE'])).license_text


CREATE = '''
import json, sys, time
slept, connected = [], []
time.sleep = slept.append
import socket
connect = socket.socket.connect
def counted(self, address):
    connected.append(address)
    return connect(self, address)
socket.socket.connect = counted
import timm, timm_sbs
try:
    timm.create_model('sbs_resnet20_cifar10_42pct', pretrained=True,
                      pretrained_cfg_overlay=dict(hf_hub_id='user/predictor'))
except timm_sbs.SbsError as e:
    said = str(e)
try:
    timm_sbs.load('hf-hub:user/predictor')
except timm_sbs.SbsError as e:
    again = str(e)
print(json.dumps([said, again, len(connected), slept]))
'''


def create(endpoint, home, **env):
    done = run('-c', CREATE, env={**os.environ, 'HF_ENDPOINT': endpoint, 'HF_HOME': str(home), **env})
    return json.loads(done.stdout)


def about(hub, repository):
    """How often the Hub was asked about a repository."""
    return sum(repository in request for request in hub.requests)


def closed_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def test_a_hub_that_is_not_there_is_asked_once_and_not_waited_for(tmp_path):
    said, again, connections, slept = create(f'http://127.0.0.1:{closed_port()}', tmp_path)
    for text in (said, again):
        assert "'user/predictor' is not in the local cache and the Hub cannot be reached" in text
        assert 'Connect once, or load the predictor from a folder' in text and '\n' not in text
    assert connections <= 3 and not slept  # one for each of both, and one of the client's own about itself


@pytest.mark.parametrize('status', [503, 429, 500])
def test_a_hub_that_is_ill_is_asked_once(tmp_path, status):
    with running_hub() as hub:
        hub.failures += [('/user/predictor/', status)] * 20
        said, _, _, slept = create(hub.endpoint, tmp_path)
        assert 'cannot be reached' in said and str(status) in said
        if status != 429:  # which older clients repeat by themselves, and are not waited for
            assert not slept and about(hub, 'user/predictor') == 2  # one for each of both


def test_a_repository_that_is_not_there_is_told_after_one_request(tmp_path):
    with running_hub() as hub:
        said, again, _, slept = create(hub.endpoint, tmp_path)
        assert "no repository 'user/predictor' that you may read" in said == again and not slept
        assert about(hub, 'user/predictor') == 2  # one for each of both


def test_offline_nobody_is_asked(tmp_path):
    with running_hub() as hub:
        said, _, connections, _ = create(hub.endpoint, tmp_path, HF_HUB_OFFLINE='1')
        assert 'is not in the local cache' in said and not hub.requests and not connections


def test_a_hub_that_does_not_answer_in_time(tmp_path, monkeypatch):
    """Each address of a host, and the name service, would take its own time-out."""
    answered = threading.Event()
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr(hub, 'PATIENCE', 0.01)
    monkeypatch.setattr(hub, 'get_hf_file_metadata', lambda *args, **kwargs: answered.wait(60))
    with pytest.raises(SbsError, match='no answer within 0.01 seconds; HF_HUB_ETAG_TIMEOUT sets another limit'):
        hub.download('user/predictor', cache_dir=tmp_path)
    answered.set()


def test_what_is_cached_is_used_although_the_hub_is_not_there(tmp_path, small_folder, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', f'http://127.0.0.1:{closed_port()}')
    snapshot = cached_snapshot(tmp_path, 'predictor')
    for path in small_folder.iterdir():
        path.rename(snapshot / path.name)
    assert hub.download('user/predictor', cache_dir=tmp_path, optional=['LICENSE']) == snapshot
