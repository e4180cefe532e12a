"""What a user reads when the Hub does not give a predictor. No network: the client is told to stay offline."""
import json

import pytest
import timm
from conftest import SHIPPED

from timm_sbs import SbsError, hub
from timm_sbs.artifact import load_artifact


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
    assert model.pretrained_cfg['hf_hub_id'] == 'user/predictor' and model.pretrained_cfg['source'] == 'hf-hub'


def test_a_licence_is_fetched_where_there_is_one(tmp_path, small_folder):
    snapshot = cached_snapshot(tmp_path, 'predictor')
    for path in small_folder.iterdir():
        path.rename(snapshot / path.name)
    assert hub.download('user/predictor', cache_dir=tmp_path, optional=['LICENSE']) == snapshot
    assert load_artifact(snapshot).license_text is None
    (snapshot / 'LICENSE').write_text('for nobody')
    assert load_artifact(hub.download('user/predictor', cache_dir=tmp_path, optional=['LICENSE'])).license_text
