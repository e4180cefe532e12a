"""Pushing and loading with the real client of the Hub, against a server on loopback. Each client is a process."""
import json
import socket

import pytest
import timm
from conftest import PREDICTORS, REPOSITORY, SHIPPED
from hub_client import DOWNLOAD, LOAD, PUSH, Client
from hub_server import TOKEN, commit_of, running_hub
from huggingface_hub import ModelCard
from mutations import edit

from timm_sbs import SbsError
from timm_sbs.artifact import hub as client_of_hub
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.artifact.hub import download


@pytest.fixture()
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture()
def client(hub, tmp_path):
    return Client(hub, tmp_path / 'home')


def uploads(hub):
    return [r for r in hub.requests if r.startswith('PUT') or '/commit/' in r]


def test_push_load_push_again_and_load_offline(hub, client, small_folder):
    address = client.push(small_folder)
    assert address.startswith(f'{hub.endpoint}/user/small/commit/')
    assert set(hub.files('user/small')) == {'config.json', 'model.safetensors', 'README.md'}
    assert any('validate-yaml' in request for request in hub.requests)  # the card
    assert len(uploads(hub)) == 2  # the large file, and the commit
    assert client.push(small_folder).endswith('user/small/commit/' + address.rpartition('/')[2])
    assert len(uploads(hub)) == 2  # nothing was new
    loaded, asked = client.load(), len(hub.requests)
    assert float(loaded) > 0
    assert client.load(HF_HUB_OFFLINE='1') == loaded and len(hub.requests) == asked
    assert client.run(LOAD.format(name=f'local-dir:{small_folder}')) == loaded


def test_revisions_and_tags(hub, client, small_folder):
    first = client.push(small_folder, tag='v1')
    assert client.push(small_folder, tag='v1') == first  # nothing has changed: it is that commit's tag
    edit(small_folder, lambda root: root['pretrained_cfg'].update(crop_pct=0.5), sealed=False)
    client.push(small_folder, revision='next')
    answer = client.push(small_folder, tag='v1')
    new, old = commit_of(hub.files('user/small')), first.rpartition('/')[2]
    assert answer == (f"SbsError: The artifact was uploaded to 'user/small' as commit {new}, but tag 'v1' is still at "
                      f'commit {old}. Push it again with a new tag, or delete the old one on the Hub first.')
    assert client.push(small_folder, tag='v2').endswith(new) and new != old
    crops = ' '.join(f'{{timm.create_model("hf-hub:user/small{name}", pretrained=True).pretrained_cfg["crop_pct"]}}'
                     for name in ('@v1', '@next', ''))
    assert client.run(f"print(f'{crops}')\n{DOWNLOAD.format(name='user/small@v9')}", all_lines=True) == [
        '1.0 0.5 0.5', "SbsError: 'user/small' on the Hub has no revision 'v9'."]


def test_private_repositories_need_a_token(hub, client, small_folder, tmp_path):
    assert '/team/small/commit/' in client.push(small_folder, 'team/small', private=True)
    assert hub.private['team/small'] and float(client.load('hf-hub:team/small')) > 0
    stranger = Client(hub, tmp_path / 'stranger', token='')
    assert "no repository 'team/small' that you may read" in stranger.run(DOWNLOAD.format(name='team/small'))


@pytest.mark.parametrize('token, says', [('', 'Nobody is logged in'), ('hf_wrong_token', 'Is the token valid')])
def test_logins_that_do_not_work(hub, small_folder, tmp_path, token, says):
    answer = Client(hub, tmp_path / 'home', token).push(small_folder)
    assert says in answer and 'hf_wrong_token' not in answer and not hub.refs


def test_nothing_is_traced_for_somebody_who_is_not_logged_in(hub, small_folder, tmp_path):
    stranger = Client(hub, tmp_path / 'home', token='')
    answer = stranger.run("import sys; sys.modules['onnx'] = None\n"
                          f"print(timm_sbs.load({str(small_folder)!r}).push_to_hub('user/small', onnx=True))")
    assert 'Nobody is logged in' in answer


def test_what_is_not_an_artifact_is_not_pushed(hub, client, small_folder):
    (small_folder / 'model.safetensors').write_bytes(b'damaged')
    assert 'SbsError' in client.push(small_folder) and not hub.requests


@pytest.mark.parametrize('part', ['/commit/', '/model.safetensors'])
def test_errors_of_the_server_are_one_line(hub, client, small_folder, part):
    if 'safetensors' in part:
        client.push(small_folder)
    hub.failures += [(part, 403)] * 9
    answer = client.run(DOWNLOAD.format(name='user/small')) if 'safetensors' in part else client.push(small_folder)
    assert answer.startswith('SbsError') and ('403' in answer or 'Forbidden' in answer) and TOKEN not in answer


def test_a_download_that_is_cut_goes_on(hub, client, small_folder):
    client.push(small_folder)
    hub.cuts.append((f"GET /user/small/resolve/{commit_of(hub.files('user/small'))}/model.safetensors", 20_000))
    assert float(client.load()) > 0 and not hub.cuts  # it was cut, and the client asked again


def test_an_upload_that_is_cut_is_made_good_by_pushing_again(hub, client, small_folder):
    hub.cuts += [('PUT /lfs/', 20_000)] * 20
    push = PUSH.format(folder=str(small_folder), repo='user/small', options={})
    answer = client.run(f'import time\ntime.sleep = lambda seconds: None  # between the attempts\n{push}')
    assert answer.startswith('SbsError') and 'Push it again later' in answer
    assert 'model.safetensors' not in hub.files('user/small')
    hub.cuts.clear()
    assert client.push(small_folder).startswith(hub.endpoint) and float(client.load()) > 0


def test_what_is_not_there(hub, client, small_folder):
    assert "no repository 'user/none' that you may read" in client.run(DOWNLOAD.format(name='user/none'))
    client.push(small_folder)
    hub.commit('user/small', {'config.json': hub.files('user/small')['config.json']})
    assert 'is not an artifact: model.safetensors not found' in client.run(DOWNLOAD.format(name='user/small'))


MOVING = '''
import huggingface_hub._snapshot_download as snapshot
fetch, fetched = snapshot.hf_hub_download, []
def moving(*args, **kwargs):
    path = fetch(*args, **kwargs)
    if not fetched:
        fetched.append(path)
        timm_sbs.load({other!r}).push_to_hub('user/small')  # between the files of a download
    return path
snapshot.hf_hub_download = moving
print(timm_sbs.load('hf-hub:user/small').results['seed'], len(fetched))
'''


def test_all_files_are_of_one_commit_although_the_repository_moves(client, small_artifact, tmp_path):
    small_artifact.with_results({'seed': 1}).save(tmp_path / 'first')
    small_artifact.with_kept(timm.create_model('resnet20_cifar10')).with_results({'seed': 2}).save(tmp_path / 'second')
    client.push(tmp_path / 'first')
    assert client.run(MOVING.format(other=str(tmp_path / 'second'))) == '1 1'
    assert client.run("print(timm_sbs.load('hf-hub:user/small').results['seed'])") == '2'


def test_a_licence_and_a_card_of_ones_own_go_with_the_artifact(hub, client, small_folder):
    (small_folder / 'LICENSE').write_text('Mine.')
    client.push(small_folder, revision='next')
    files = hub.files('user/small', 'next')
    assert files['LICENSE'] == b'Mine.' and b'The file LICENSE in this repository' in files['README.md']
    assert client.run("print(timm_sbs.load('hf-hub:user/small@next').license_text)") == 'Mine.'
    (small_folder / 'LICENSE').unlink()
    own = '---\nlicense: mit\n---\n# Mine\n'
    client.push(small_folder, revision='next', card=own)
    files, commits = hub.files('user/small', 'next'), len(hub.refs['user/small'])
    assert set(files) == {'config.json', 'model.safetensors', 'README.md'} and files['README.md'] == own.encode()
    client.push(small_folder, revision='next', card=own)
    assert len(hub.refs['user/small']) == commits


TUNED = '''
model = timm.create_model('hf-hub:user/small', pretrained=True).requires_grad_(False)
model.bn1.bias += 0.1
timm_sbs.fit(model, base={base!r}, bytes=9000, output={folder!r}, quiet=True)
'''


def test_an_update_names_the_commit_of_its_base(hub, client, small_folder, tmp_path):
    commit, update = client.push(small_folder).rpartition('/')[2], tmp_path / 'update'
    client.run(TUNED.format(base='user/small@main', folder=str(update)), all_lines=True)
    assert json.loads((update / 'config.json').read_text())['sbs']['update']['base'] == f'user/small@{commit}'
    edit(small_folder, lambda root: root['pretrained_cfg'].update(crop_pct=0.5), sealed=False)
    client.push(small_folder)  # the repository has moved on
    client.push(update, repo='user/update')
    assert client.load('hf-hub:user/update') == client.load(f'local-dir:{update}') != client.load()
    card = ModelCard(hub.files('user/update')['README.md'].decode())
    assert (card.data.base_model, card.data.base_model_relation) == ('user/small', 'finetune')


def test_snippets_of_cards_run(hub, client, small_folder):
    """Those of the shipped predictors, and that of a user's."""
    client.push(small_folder)
    cards = [(REPOSITORY / 'hub_cards' / f'{name}.md').read_text() for name in PREDICTORS]
    cards.append(hub.files('user/small')['README.md'].decode())
    code = ''.join(card.split('```python\n')[1].split('```')[0] + '\nprint(model.num_classes)\n' for card in cards)
    assert client.run(code, all_lines=True) == ['10'] * len(cards)


def test_the_command_pushes_and_tells(hub, client, small_folder, tmp_path):
    (tmp_path / 'card.md').write_text('---\nlicense: mit\n---\n# Mine\n')
    argv = ['push', str(small_folder), 'user/small', '--tag', 'v1', '--card', str(tmp_path / 'card.md')]
    answer = client.run(f'sys.exit(timm_sbs.cli.main.main({argv!r}))')
    assert answer.startswith(f'{hub.endpoint}/user/small/commit/') and 'v1' in hub.refs['user/small']
    assert hub.files('user/small')['README.md'].endswith(b'# Mine\n')
    assert 'both files' in client.run("timm_sbs.cli.main.main(['info', 'hf-hub:user/small@v1'])")


def test_tokens_are_nowhere_to_be_seen(hub, small_folder, tmp_path):
    """Whatever goes wrong: not in what is printed, nor in what is uploaded."""
    planted = 'hf_planted_0123456789'
    for failure in (('/create', 401), ('/create', 500)):
        hub.failures[:] = [failure] * 9
        done = Client(hub, tmp_path / 'home', planted).start(
            PUSH.format(folder=str(small_folder), repo='user/small', options={})).wait()
        assert planted not in done.stdout + done.stderr and done.stderr.splitlines()[-1].startswith('SbsError')
    hub.failures.clear()
    Client(hub, tmp_path / 'home').push(small_folder)
    assert not any(TOKEN.encode() in data for data in hub.files('user/small').values())


CREATE = f'''
import json, time
slept, said = [], []
time.sleep = slept.append
for ask in (lambda: timm.create_model({SHIPPED!r}, pretrained=True, pretrained_cfg_overlay=dict(hf_hub_id='user/one')),
            lambda: timm_sbs.load('hf-hub:user/one')):
    try:
        ask()
    except SbsError as e:
        said.append(str(e))
print(json.dumps([said, slept]))
'''


def refused(client, **env):
    (first, second), slept = json.loads(client.run(CREATE, **env))
    assert first == second and '\n' not in first and not slept
    return first


def closed_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def test_a_hub_that_is_not_there_or_ill_is_not_waited_for(hub, client):
    hub.failures += [('HEAD /', 503), ('HEAD /', 500)]
    for env in ({}, {'HF_ENDPOINT': f'http://127.0.0.1:{closed_port()}'}):
        said = refused(client, **env) if env else json.loads(client.run(CREATE))[0][0]
        assert "'user/one' is not in the local cache and the Hub cannot be reached (" in said
        assert 'Connect once, or load the artifact from a folder' in said
    assert not any('user/one' in request for request in hub.requests)
    hub.requests.clear()
    assert 'HF_HUB_OFFLINE is set' in refused(client, HF_HUB_OFFLINE='1') and not hub.requests
    assert "no repository 'user/one' that you may read" in refused(client)


@pytest.fixture()
def silent(monkeypatch):
    """A Hub that never answers."""
    monkeypatch.setattr(client_of_hub, 'PATIENCE', 0.3)
    with socket.create_server(('127.0.0.1', 0)) as server:
        monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', f'http://127.0.0.1:{server.getsockname()[1]}')
        yield


def cached_snapshot(cache, files):
    """A snapshot of 'user/one' in a cache of huggingface_hub, of the files of a folder."""
    repository, revision = cache / 'models--user--one', 'a' * 40
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs' / 'main').write_text(revision)
    (repository / 'snapshots').mkdir()
    return files.rename(repository / 'snapshots' / revision)


def test_nobody_waits_for_a_hub_that_never_answers(silent, small_folder, tmp_path):
    with pytest.raises(SbsError, match="'user/name' cannot be created: the Hub cannot be reached .no answer within"):
        load_artifact(small_folder).push_to_hub('user/name', token='hf_any')
    with pytest.raises(SbsError, match="'user/one' is not in the local cache and the Hub cannot be reached .no answer"):
        download('user/one', cache_dir=tmp_path)


def test_what_is_cached_is_used_although_the_hub_is_not_there(silent, small_folder, tmp_path, monkeypatch):
    snapshot = cached_snapshot(tmp_path / 'cache', small_folder)
    assert download('user/one', cache_dir=tmp_path / 'cache') == snapshot
    assert load_artifact(snapshot).license_text is None
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    model = timm.create_model('hf-hub:user/one', pretrained=True, cache_dir=tmp_path / 'cache')
    assert model.pretrained_cfg['hf_hub_id'] == 'user/one'
    (snapshot / 'model.safetensors').unlink()
    with pytest.raises(SbsError, match="'user/one' is not in the local cache"):
        timm.create_model('hf-hub:user/one', pretrained=True, cache_dir=tmp_path / 'cache')


def test_a_repository_can_not_point_to_local_files(tmp_path, small_folder, monkeypatch):
    """Its config.json is found in the cache, and names a folder of this machine. That folder is not read."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    (tmp_path / 'theirs').mkdir()
    root = json.loads((small_folder / 'config.json').read_text())
    root['pretrained_cfg']['file'] = str(small_folder)
    (tmp_path / 'theirs' / 'config.json').write_text(json.dumps(root))
    cached_snapshot(tmp_path / 'cache', tmp_path / 'theirs')
    with pytest.raises(SbsError, match='is not in the local cache'):
        timm.create_model('hf-hub:user/one', pretrained=True, cache_dir=tmp_path / 'cache')


def test_impossible_repository_names(monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(SbsError, match='cannot be downloaded from the Hub: Repo id must be'):
        download('a/b/c', cache_dir=tmp_path)
