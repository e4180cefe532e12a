import json

import pytest
import torch
from accelerate import Accelerator

from timm_sbs.common.errors import SbsError
from timm_sbs.training.run.checkpoints import Checkpoints

SETTINGS = {'pct': 20.0, 'seed': 0, 'betas': (0.9, 0.99)}


@pytest.fixture()
def accelerator():
    accelerator = Accelerator(cpu=True)
    yield accelerator
    accelerator.free_memory()


def optimizer_of(accelerator, lr=0.1):
    parameter = torch.nn.Parameter(torch.ones(3))
    return parameter, accelerator.prepare(torch.optim.Adam([parameter], lr=lr))


def test_round_trip_of_everything(tmp_path, accelerator):
    parameter, optimizer = optimizer_of(accelerator)
    parameter.sum().backward()
    optimizer.step()
    checkpoints = Checkpoints(tmp_path, accelerator, SETTINGS)
    checkpoints.save(7, {'phase': 'x', 'step': 7}, {'predictor.a': torch.arange(4.)})
    torch_draw = torch.rand(2)
    accelerator.free_memory()

    parameter, optimizer = optimizer_of(accelerator)
    again = Checkpoints(tmp_path, accelerator, dict(SETTINGS))
    found = again.open('latest')
    assert found.progress['step'] == 7 and torch.equal(found.tensors()['predictor.a'], torch.arange(4.))
    again.restore(found)
    assert float(optimizer.state_dict()['state'][0]['exp_avg'].sum()) == pytest.approx(0.3)
    assert torch.equal(torch.rand(2), torch_draw)  # random states too
    assert again.open(str(tmp_path / 'checkpoints' / 'checkpoint-0000007')).progress == found.progress


def test_latest_is_the_last_complete_one(tmp_path, accelerator):
    checkpoints = Checkpoints(tmp_path, accelerator, SETTINGS)
    assert checkpoints.open('latest') is None
    for number in (9, 10, 100):
        checkpoints.save(number, {'step': number}, {})
    unfinished = tmp_path / 'checkpoints' / '.checkpoint-0000200'
    unfinished.mkdir()
    (unfinished / 'progress.json').write_text('{}')
    assert checkpoints.open('latest').progress['step'] == 100
    checkpoints.save(300, {'step': 300}, {})
    assert not unfinished.exists()


def test_limit_removes_the_oldest(tmp_path, accelerator):
    checkpoints = Checkpoints(tmp_path, accelerator, SETTINGS, limit=2)
    for number in (1, 2, 3, 4):
        checkpoints.save(number, {}, {})
    assert [path.name for path in checkpoints.found()] == ['checkpoint-0000003', 'checkpoint-0000004']
    assert len(list((tmp_path / 'checkpoints').iterdir())) == 2


def test_other_settings_are_named(tmp_path, accelerator):
    Checkpoints(tmp_path, accelerator, SETTINGS).save(1, {}, {})
    with pytest.raises(SbsError, match=r'was made with --pct 20.0, but this run has 15.0. Resume with the same'):
        Checkpoints(tmp_path, accelerator, {**SETTINGS, 'pct': 15.0}).open('latest')


def test_what_is_no_checkpoint(tmp_path, accelerator):
    checkpoints = Checkpoints(tmp_path, accelerator, SETTINGS)
    with pytest.raises(SbsError, match='nowhere.* is no checkpoint of a run'):
        checkpoints.open(str(tmp_path / 'nowhere'))
    (tmp_path / 'progress.json').write_text('{"step": ')
    with pytest.raises(SbsError, match='is no checkpoint of a run'):
        checkpoints.open(str(tmp_path))


@pytest.mark.parametrize('name', ['state.safetensors', 'optimizer.bin'])
def test_damaged_files_are_one_sentence(tmp_path, accelerator, name):
    optimizer_of(accelerator)
    checkpoints = Checkpoints(tmp_path, accelerator, SETTINGS)
    checkpoints.save(1, {}, {'a': torch.zeros(9)})
    path = tmp_path / 'checkpoints' / 'checkpoint-0000001' / name
    path.write_bytes(path.read_bytes()[:20])
    found = checkpoints.open('latest')
    with pytest.raises(SbsError, match='cannot be read.*Resume from an earlier one'):
        found.tensors()
        checkpoints.restore(found)


def test_unwritable_checkpoint_leaves_no_part(tmp_path, accelerator):
    checkpoints = Checkpoints(tmp_path, accelerator, SETTINGS)
    (tmp_path / 'checkpoints').write_text('a file where the folder should be')
    with pytest.raises(SbsError, match='Cannot write the checkpoint.*Resume with --resume latest'):
        checkpoints.save(1, {}, {})


def test_tensors_are_computed_once_when_checkpoints_are_written(tmp_path, accelerator):
    calls = []

    def compute():
        calls.append(1)
        return {'a': torch.arange(3)}

    for every, expected in ((None, 2), (10, 1)):
        calls.clear()
        for _ in range(2):
            checkpoints = Checkpoints(tmp_path / str(every), accelerator, SETTINGS, every)
            tensors = checkpoints.load_or_compute('orderings', compute)
            assert torch.equal(tensors['a'], torch.arange(3))
        assert len(calls) == expected
    other = {**SETTINGS, 'seed': 1}  # of another run, which was killed before its first checkpoint
    Checkpoints(tmp_path / '10', accelerator, other, 10).load_or_compute('orderings', compute)
    assert len(calls) == 2
    (tmp_path / '10' / 'checkpoints' / 'orderings.safetensors').write_bytes(b'x')
    with pytest.raises(SbsError, match='remove it and resume again'):
        Checkpoints(tmp_path / '10', accelerator, SETTINGS, 10).load_or_compute('orderings', compute)


def test_checkpoint_states_its_settings(tmp_path, accelerator):
    Checkpoints(tmp_path, accelerator, SETTINGS).save(1, {}, {})
    settings = json.loads((tmp_path / 'checkpoints/checkpoint-0000001/progress.json').read_text())['settings']
    assert settings == {'pct': 20.0, 'seed': 0, 'betas': [0.9, 0.99], 'num_processes': 1}
