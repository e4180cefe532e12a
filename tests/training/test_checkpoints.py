"""Checkpoints: round trips, which one is the latest, other settings, damaged and hostile files."""
import json
import os
import pickle

import pytest
import torch
from accelerate import Accelerator
from conftest import started

from timm_sbs.common.config import QuantizationConfig, to_dict
from timm_sbs.common.errors import SbsError
from timm_sbs.training.checkpoints import Checkpoints, artifact_tensors

SETTINGS = {'pct': 20.0, 'seed': 0, 'weights': (0.9, 0.99)}


@pytest.fixture()
def accelerator():
    accelerator = Accelerator(cpu=True)
    yield accelerator
    accelerator.free_memory()


def optimizer_of(accelerator):
    parameter = torch.nn.Parameter(torch.ones(3))
    return parameter, accelerator.prepare(torch.optim.Adam([parameter], lr=0.1))


def save(checkpoints, number, phase=0, state=(), **progress):
    checkpoints.save(number, {'phase_index': phase, 'step': number, **progress}, {'kept': {}}, dict(state))


def test_round_trip_of_everything(tmp_path, accelerator, small_model):
    parameter, optimizer = optimizer_of(accelerator)
    parameter.sum().backward()
    optimizer.step()
    artifact = started(small_model, bits=5.)
    checkpoints = Checkpoints(str(tmp_path), accelerator, SETTINGS)
    quantization = to_dict(QuantizationConfig((5.,) * 4))
    checkpoints.save(7, {'phase_index': 1, 'step': 3, 'quantization': quantization}, artifact_tensors(artifact),
                     {'predictor.a': torch.arange(4.)})
    drawn = torch.rand(2)
    accelerator.free_memory()

    _, optimizer = optimizer_of(accelerator)
    again = Checkpoints(str(tmp_path), accelerator, dict(SETTINGS))
    found = again.open('latest')
    assert found.progress['step'] == 3 and torch.equal(found.state()['predictor.a'], torch.arange(4.))
    again.restore(found)
    assert float(optimizer.state_dict()['state'][0]['exp_avg'].sum()) == pytest.approx(0.3)
    assert torch.equal(torch.rand(2), drawn)  # random states too
    assert again.open(str(tmp_path / 'checkpoints' / 'checkpoint-1-0000007')).progress == found.progress
    other = found.artifact(started(small_model, bits=4., seed=1))
    assert other.storage.quantization == QuantizationConfig((5.,) * 4)
    assert all(torch.equal(tensor, artifact_tensors(artifact)[part][name])
               for part, tensors in artifact_tensors(other).items() for name, tensor in tensors.items())


def test_the_last_two_complete_ones_are_there(tmp_path, accelerator):
    checkpoints = Checkpoints(str(tmp_path), accelerator, SETTINGS)
    assert checkpoints.open('latest') is checkpoints.open(None) is None
    for phase, number in ((0, 9), (0, 10), (0, 100), (1, 100)):  # the last is that of a phase that begins
        save(checkpoints, number, phase)
    unfinished = tmp_path / 'checkpoints' / 'checkpoint-1-0000200'
    unfinished.mkdir()  # progress.json is written last
    (unfinished / 'state.pt').write_text('')
    assert checkpoints.open('latest').progress['phase_index'] == 1
    save(checkpoints, 300, 1)
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == [
        'checkpoint-1-0000100', 'checkpoint-1-0000300']


def test_other_settings_and_other_runs_are_named(tmp_path, accelerator):
    save(Checkpoints(str(tmp_path), accelerator, SETTINGS), 1)
    text = (tmp_path / 'checkpoints/checkpoint-0-0000001/progress.json').read_text()
    assert json.loads(text)['settings'] == {'pct': 20.0, 'seed': 0, 'weights': [0.9, 0.99], 'num_processes': 1}
    other = Checkpoints(str(tmp_path), accelerator, {**SETTINGS, 'pct': 15.0})
    with pytest.raises(SbsError, match=r'was made with pct = 20.0, but this run has 15.0. Resume with the same'):
        other.open('latest')
    with pytest.raises(SbsError, match='holds checkpoints of an earlier run. Continue from them with --resume latest'):
        other.open(None)


@pytest.mark.parametrize('text', [None, '{"step": ', '{"step": 1}', '[]', '{"settings": 3}'])
def test_what_is_not_a_checkpoint(tmp_path, accelerator, text):
    if text is not None:
        (tmp_path / 'progress.json').write_text(text)
    with pytest.raises(SbsError, match='is not a checkpoint.*Use --resume latest, or a folder'):
        Checkpoints(str(tmp_path), accelerator, SETTINGS).open(str(tmp_path))


class Hostile:
    def __reduce__(self):
        return os.system, ('echo hostile',)


@pytest.mark.parametrize('name, content', [
    ('state.pt', b'x' * 20), ('state.pt', pickle.dumps(Hostile(), 2)),
    ('optimizer.bin', b'x' * 20), ('optimizer.bin', pickle.dumps(Hostile(), 2))])
def test_damaged_and_hostile_files_are_one_sentence(tmp_path, accelerator, name, content, capfd):
    optimizer_of(accelerator)
    checkpoints = Checkpoints(str(tmp_path), accelerator, SETTINGS)
    save(checkpoints, 1, state={'a': torch.zeros(9)}.items())
    (tmp_path / 'checkpoints' / 'checkpoint-0-0000001' / name).write_bytes(content)
    found = checkpoints.open('latest')
    with pytest.raises(SbsError, match='could not be read.*Resume from an earlier checkpoint'):
        found.state()
        checkpoints.restore(found)
    assert 'hostile\n' not in capfd.readouterr().out


def test_a_checkpoint_that_cannot_be_written_leaves_no_part(tmp_path, accelerator):
    checkpoints = Checkpoints(str(tmp_path), accelerator, SETTINGS)
    (tmp_path / 'checkpoints').write_text('a file where the folder should be')
    with pytest.raises(SbsError, match='could not be written.*Resume with --resume latest'):
        save(checkpoints, 1)


def test_tensors_are_computed_once_when_checkpoints_are_written(tmp_path, accelerator):
    calls = []

    def compute():
        calls.append(1)
        return {'a': torch.arange(3)}

    def compute_once(every, settings=SETTINGS, resumes=True):
        checkpoints = Checkpoints(str(tmp_path / str(every)), accelerator, settings, every)
        checkpoints.open('latest' if resumes else None)
        assert torch.equal(checkpoints.load_or_compute('orderings', compute)['a'], torch.arange(3))
        return len(calls)

    assert [compute_once(None), compute_once(None), compute_once(10), compute_once(10)] == [1, 2, 3, 3]
    assert compute_once(10, {**SETTINGS, 'seed': 1}) == 4  # of another run, killed before its first checkpoint
    assert compute_once(10, resumes=False) == 5  # whoever may have put the file there
    for path in (tmp_path / '10' / 'checkpoints').iterdir():
        path.write_bytes(b'x')
    with pytest.raises(SbsError, match='could not be read'):
        compute_once(10)


def test_a_name_that_no_run_gives_is_no_checkpoint(tmp_path, accelerator):
    checkpoints = Checkpoints(str(tmp_path), accelerator, SETTINGS)
    other = tmp_path / 'checkpoints' / 'checkpoint-zzz' / 'progress.json'
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({'settings': checkpoints.settings}))
    for number in (1, 2, 3):
        save(checkpoints, number)
    assert checkpoints.open('latest').folder.name == 'checkpoint-0-0000003' and other.exists()
    assert len(list((tmp_path / 'checkpoints').iterdir())) == 3


def test_links_are_neither_followed_nor_emptied(tmp_path, accelerator):
    """In a folder that somebody has sent, they may lead anywhere."""
    thesis, output = tmp_path / 'thesis', tmp_path / 'received'
    (thesis / 'checkpoint-0-0000009').mkdir(parents=True)
    output.mkdir()
    for path in (thesis, thesis / 'checkpoint-0-0000009'):
        (path / 'progress.json').write_text('years of work')
    before = sorted(thesis.rglob('*'))
    (output / 'checkpoints').symlink_to(thesis)
    for resume in (None, 'latest'):
        with pytest.raises(SbsError, match='checkpoints. is a link'):
            Checkpoints(str(output), accelerator, SETTINGS, 1).open(resume)
    (output / 'checkpoints').unlink()
    (output / 'checkpoints').mkdir()
    (output / 'checkpoints' / 'checkpoint-0-0000001').symlink_to(thesis)
    checkpoints = Checkpoints(str(output), accelerator, SETTINGS, 1)
    assert checkpoints.open('latest') is None
    for number in (1, 2, 3):
        save(checkpoints, number)
    assert sorted(thesis.rglob('*')) == before and (thesis / 'progress.json').read_text() == 'years of work'
