"""Pushing and loading with the real client of the Hub, against a server on loopback. Each client is a process."""
import dataclasses
import json
import os
import socket
from pathlib import Path

import pytest
from conftest import ALL_SHIPPED, REPOSITORY
from hub_server import TOKEN, commit_of, running_hub
from processes import Process

from timm_sbs import SbsError, push_to_hub
from timm_sbs.artifact.folder import save_artifact

HEADER = 'import sys, timm, timm_sbs, timm_sbs.cli.main\nfrom timm_sbs import SbsError\n'
PUSH = 'print(timm_sbs.push_to_hub({folder!r}, {repo!r}, **{options!r}))'
DOWNLOAD = 'from timm_sbs.artifact.download import download\nprint(download({name!r}))'
LOAD = ("model = timm.create_model({name!r}, pretrained=True)\n"
        "print('%.6f' % sum(p.double().abs().sum() for p in model.parameters()))")


class Client:
    """A user of the Hub with a cache of his own."""

    def __init__(self, hub, home, token=TOKEN):
        self.env = {
            **os.environ, 'HF_ENDPOINT': hub.endpoint, 'HF_HUB_DISABLE_XET': '1', 'HF_HOME': str(home),
            'HF_TOKEN': token}

    def start(self, code, **env):
        guarded = 'try:\n' + ''.join(f'    {line}\n' for line in code.splitlines()) + (
            'except SbsError as e:\n    sys.exit(f"SbsError: {e}")\n')
        return Process('-c', HEADER + guarded, env={**self.env, **env})

    def run(self, code, all_lines=False, **env):
        """What a process prints, or its last line; an SbsError is the last one."""
        done = self.start(code, **env).wait()
        assert 'Traceback' not in done.stderr, done.stderr
        lines = done.stdout.splitlines() + [line for line in done.stderr.splitlines() if line.startswith('SbsError')]
        return lines if all_lines else lines[-1]

    def push(self, folder, repo='user/small', **options):
        return self.run(PUSH.format(folder=str(folder), repo=repo, options=options))

    def load(self, name='hf-hub:user/small', **env):
        return self.run(LOAD.format(name=name), **env)


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
    assert len(uploads(hub)) == 2  # the large file, and the commit
    assert client.push(small_folder).endswith('user/small/commit/' + address.rpartition('/')[2])
    assert len(uploads(hub)) == 2  # nothing was new
    loaded, asked = client.load(), len(hub.requests)
    assert float(loaded) > 0
    assert client.load(HF_HUB_OFFLINE='1') == loaded and len(hub.requests) == asked
    local = client.run(LOAD.format(name=f'local-dir:{small_folder}'))
    assert local == loaded


def test_revisions(hub, client, small_folder):
    client.push(small_folder, tag='v1')
    config = json.loads((small_folder / 'config.json').read_text())
    config['pretrained_cfg']['crop_pct'] = 0.5
    (small_folder / 'config.json').write_text(json.dumps(config))
    client.run('\n'.join(
        PUSH.format(folder=str(small_folder), repo='user/small', options=options)
        for options in ({'revision': 'next'}, {})))
    crops = ' '.join(f'{{timm.create_model("hf-hub:user/small{name}", pretrained=True).pretrained_cfg["crop_pct"]}}'
                     for name in ('@v1', '@next', ''))
    assert client.run(f"print(f'{crops}')\n{DOWNLOAD.format(name='user/small@v9')}", all_lines=True) == [
        '1.0 0.5 0.5', "SbsError: 'user/small' on the Hub has no revision 'v9'."]


def test_a_tag_of_another_commit_is_not_passed_over(hub, client, small_folder):
    first = client.push(small_folder, tag='v1')
    assert client.push(small_folder, tag='v1') == first  # nothing has changed: it is that commit's tag
    config = json.loads((small_folder / 'config.json').read_text())
    config['pretrained_cfg']['crop_pct'] = 0.5
    (small_folder / 'config.json').write_text(json.dumps(config))
    answer = client.push(small_folder, tag='v1')
    new, old = commit_of(hub.files('user/small')), first.rpartition('/')[2]
    assert answer == (f"SbsError: The artifact was uploaded to 'user/small' as commit {new}, but tag 'v1' is still at "
                      f'commit {old}. Push it again with a new tag, or delete the old one on the Hub first.')
    assert client.push(small_folder, tag='v2').endswith(new) and new != old


def test_private_repositories_need_a_token(hub, client, small_folder, tmp_path):
    client.push(small_folder, private=True)
    assert hub.private['user/small']
    assert float(client.load()) > 0
    stranger = Client(hub, tmp_path / 'stranger', token='')
    assert "no repository 'user/small' that you may read" in stranger.run(DOWNLOAD.format(name='user/small'))


def test_organisations(hub, client, small_folder):
    assert '/team/small/commit/' in client.push(small_folder, 'team/small')
    assert set(hub.refs) == {'team/small'}


@pytest.mark.parametrize('token, says', [('', 'Nobody is logged in'), ('hf_wrong_token', 'Is the token valid')])
def test_logins_that_do_not_work(hub, small_folder, tmp_path, token, says):
    answer = Client(hub, tmp_path / 'home', token).push(small_folder)
    assert says in answer and 'hf_wrong_token' not in answer and not hub.refs


def test_what_is_no_artifact_is_not_pushed(hub, client, small_folder):
    (small_folder / 'model.safetensors').write_bytes(b'damaged')
    assert 'SbsError' in client.push(small_folder) and not hub.requests


def test_a_card_of_ones_own_goes_first(hub, client, small_folder):
    (small_folder / 'README.md').write_text('---\nlicense: mit\n---\n# Mine\n')
    client.push(small_folder)
    assert hub.files('user/small')['README.md'] == (small_folder / 'README.md').read_bytes()


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
    assert float(client.load()) > 0
    assert not hub.cuts  # it was cut, and the client asked again; what is below 10 MB it asks for as a whole
    assert sum(request.startswith('GET') and request.endswith('model.safetensors') for request in hub.requests) == 2


def test_an_upload_that_is_cut_is_made_good_by_pushing_again(hub, client, small_folder):
    hub.cuts += [('PUT /lfs/', 20_000)] * 20
    push = PUSH.format(folder=str(small_folder), repo='user/small', options={})
    answer = client.run(f'import time\ntime.sleep = lambda seconds: None  # between the attempts\n{push}')
    assert answer.startswith('SbsError') and 'push it again later' in answer
    assert 'model.safetensors' not in hub.files('user/small')
    hub.cuts.clear()
    assert client.push(small_folder).startswith(hub.endpoint) and float(client.load()) > 0


def test_what_is_not_there(hub, client, small_folder):
    assert "no repository 'user/none' that you may read" in client.run(DOWNLOAD.format(name='user/none'))
    client.push(small_folder)
    hub.commit('user/small', {'config.json': hub.files('user/small')['config.json']})
    assert 'it has no model.safetensors' in client.run(DOWNLOAD.format(name='user/small'))


def test_two_processes_load_at_once(hub, client, small_folder):
    client.push(small_folder)
    both = [client.start(LOAD.format(name='hf-hub:user/small')) for _ in range(2)]
    answers = [process.wait().stdout.strip() for process in both]
    assert answers[0] == answers[1] and float(answers[0]) > 0


def test_an_artifact_in_memory_is_pushed_as_one_in_a_folder_is(hub, client, small_folder):
    client.push(small_folder)
    code = f"print(timm_sbs.load({str(small_folder)!r}).push_to_hub('user/memory', private=True, tag='v1'))"
    assert client.run(code).startswith(f'{hub.endpoint}/user/memory/commit/')
    assert hub.private['user/memory'] and 'v1' in hub.refs['user/memory']
    for name in ('config.json', 'model.safetensors'):
        assert hub.files('user/memory')[name] == hub.files('user/small')[name]
    read = "artifact = timm_sbs.load('hf-hub:user/memory@v1')\nprint(artifact.base.name, len(artifact.state_dict()))"
    assert client.run(read) == 'resnet20_cifar10 116'


MOVING = '''
import sys
sys.path.insert(0, {tests!r})
from timm_sbs.artifact import download
from timm_sbs.artifact.folder import load_artifact
fetch, fetched = download._fetch, []
def moving(repo, name, *others):
    path = fetch(repo, name, *others)
    if not fetched:
        timm_sbs.push_to_hub({other!r}, repo)  # between the two files of a download
    fetched.append(path)
    return path
download._fetch = moving
folder = download.download('user/small')
print(len(fetched), load_artifact(folder).results.seed)
'''


def test_all_files_are_of_one_commit_although_the_repository_moves(hub, client, small_folder, small_artifact, tmp_path):
    save_artifact(tmp_path / 'first', small_artifact.with_results({'seed': 1}))
    save_artifact(tmp_path / 'second', fit_quickly_again(small_artifact))
    client.push(tmp_path / 'first')
    code = MOVING.format(tests=str(REPOSITORY / 'tests'), other=str(tmp_path / 'second'))
    assert client.run(code) == '2 1'
    read = "from timm_sbs.artifact.download import download\nprint(timm_sbs.load('hf-hub:user/small').results.seed)"
    assert client.run(read) == '2'


def fit_quickly_again(artifact):
    """An artifact of other tensors."""
    kept = {name: tensor + 1 for name, tensor in artifact.kept.items()}
    return dataclasses.replace(artifact, kept=kept, results={'seed': 2})


def test_a_licence_goes_with_the_artifact(hub, client, small_folder):
    (small_folder / 'LICENSE').write_text('Mine.')
    client.push(small_folder)
    assert hub.files('user/small')['LICENSE'] == b'Mine.'
    assert 'LICENSE, beside this card' in hub.files('user/small')['README.md'].decode()


def test_a_licence_does_not_stay_without_the_artifact(hub, client, small_folder):
    (small_folder / 'LICENSE').write_text('Mine.')
    client.push(small_folder, revision='next')
    (small_folder / 'LICENSE').unlink()
    commits = len(hub.refs['user/small'])
    client.push(small_folder, revision='next')
    assert set(hub.files('user/small', 'next')) == {'config.json', 'model.safetensors', 'README.md'}
    assert len(hub.refs['user/small']) == commits + 1  # one, with the new card
    client.push(small_folder, revision='next')
    assert len(hub.refs['user/small']) == commits + 1


def snippet_of(card):
    return card.split('```python\n')[1].split('```')[0]


def test_snippets_of_cards_run(hub, client, small_folder):
    """Those of the shipped predictors, and that of a user's, which the client of the Hub has checked when it was
    pushed."""
    client.push(small_folder)
    assert any('validate-yaml' in request for request in hub.requests)
    cards = [(REPOSITORY / 'hub_cards' / f'{name}.md').read_text() for name in ALL_SHIPPED]
    cards.append(hub.files('user/small')['README.md'].decode())
    code = ''.join(f'{snippet_of(card)}\nprint(model.num_classes)\n' for card in cards)
    assert client.run(code, all_lines=True) == ['10'] * len(cards)


def test_the_command_pushes_and_tells_without_downloading_weights(hub, client, small_folder):
    argv = ['push', str(small_folder), 'user/small', '--tag', 'v1']
    answer = client.run(f'sys.exit(timm_sbs.cli.main.main({argv!r}))')
    assert answer.startswith(f'{hub.endpoint}/user/small/commit/') and 'v1' in hub.refs['user/small']
    told = client.run("timm_sbs.cli.main.main(['info', 'hf-hub:user/small@v1'])")
    assert 'both files' in told
    assert not any('model.safetensors' in request for request in hub.requests if 'resolve' in request)


def test_tokens_are_nowhere_to_be_seen(hub, small_folder, tmp_path):
    """Whatever goes wrong: not in what is printed, nor in what is uploaded."""
    planted = 'hf_planted_0123456789'
    for failure in (None, ('/create', 401), ('/create', 500)):
        hub.failures[:] = [failure] * 9 if failure else []
        done = Client(hub, tmp_path / 'home', planted).start(
            PUSH.format(folder=str(small_folder), repo='user/small', options={})).wait()
        assert planted not in done.stdout + done.stderr and done.stderr.splitlines()[-1].startswith('SbsError')
    owner = Client(hub, tmp_path / 'home')
    hub.failures.clear()
    owner.push(small_folder)
    assert not any(TOKEN.encode() in data for data in hub.files('user/small').values())


def test_home_is_where_files_are_kept(client, small_folder, tmp_path):
    client.push(small_folder)
    client.load()
    assert list(Path(tmp_path / 'home' / 'hub').glob('models--user--small/snapshots/*/model.safetensors'))


def test_nobody_waits_for_a_hub_that_never_answers(small_folder, monkeypatch):
    monkeypatch.setattr('timm_sbs.artifact.download.PATIENCE', 0.3)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', f'http://127.0.0.1:{silent.getsockname()[1]}')
        with pytest.raises(SbsError, match="'user/name' cannot be created: the Hub cannot be reached"):
            push_to_hub(small_folder, 'user/name', token='hf_any')
