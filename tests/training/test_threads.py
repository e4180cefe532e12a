import json

import pytest
import torch
from conftest import RESNET

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.train import main
from timm_sbs.training.run import threads
from timm_sbs.training.run.threads import Threads, settle_threads, used_threads


@pytest.fixture()
def machine(monkeypatch):
    """Pretend to be on another one, whose cores are so busy."""
    def be(cores=4, busy=0., processes=1, usual=4, accelerated=False, **environment):
        for name in threads.BY_USER:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(threads, 'usable_cores', lambda: cores)
        monkeypatch.setattr(threads, 'local_processes', lambda: processes)
        monkeypatch.setattr(threads.torch, 'get_num_threads', lambda: usual)
        monkeypatch.setattr(threads, 'uses_accelerator', lambda: accelerated)
        monkeypatch.setattr(threads.os, 'sched_getaffinity', lambda _: range(cores), raising=False)
        shares = [100. * min(1., max(0., busy - core)) for core in range(cores)]
        monkeypatch.setattr(threads.psutil, 'cpu_percent', lambda interval, percpu: [*shares, 100.])  # one not ours

    return be


@pytest.mark.parametrize('situation, count', [
    (dict(), 4), (dict(busy=0.4), 4), (dict(busy=1.), 3), (dict(busy=2.9), 1), (dict(busy=4.), 1),
    (dict(cores=2, usual=8), 2), (dict(cores=8, busy=3.), 4), (dict(usual=1, busy=4.), 1),
    (dict(cores=16, usual=16, busy=1.5), 16), (dict(cores=16, usual=16, busy=2.), 14),
    (dict(busy=4., accelerated=True), 4), (dict(processes=2, busy=4.), 2), (dict(processes=8), 1),
    (dict(busy=4., OMP_NUM_THREADS='4'), 4), (dict(busy=4., MKL_NUM_THREADS='4'), 4)])
def test_no_more_threads_than_cores(machine, situation, count):
    machine(**situation)
    assert settle_threads().count == count


def test_what_is_told(machine):
    machine(busy=3.)
    assert str(settle_threads()).startswith('on 1 CPU thread (of 4, for other programs keep the cores busy')
    machine()
    assert str(settle_threads()) == 'on 4 CPU threads'
    machine(OMP_NUM_THREADS='4')
    assert str(settle_threads()) == 'on 4 CPU threads (as OMP_NUM_THREADS says)'


def test_a_resumed_run_keeps_its_threads_where_there_are_cores(machine):
    machine(busy=4.)
    assert settle_threads(recorded=3).count == 3
    machine(cores=2)
    assert settle_threads(recorded=3).count == 2
    assert '3 before the run was stopped, so that last digits will differ' in str(settle_threads(recorded=3))
    machine(OMP_NUM_THREADS='4')
    assert str(settle_threads(recorded=4)) == 'on 4 CPU threads (as OMP_NUM_THREADS says)'
    assert '3 before the run was stopped' in str(settle_threads(recorded=3))


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match='stop'), used_threads(Threads(before + 1)):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError('stop')
    assert torch.get_num_threads() == before


def test_a_run_computes_on_its_threads_and_records_them(tmp_path, monkeypatch, capsys):
    argv = [*RESNET, '--reconstruction-steps', '4', '--checkpointing-steps', '2', '--output', str(tmp_path)]
    monkeypatch.setattr('timm_sbs.training.run.train.settle_threads', lambda recorded: Threads(recorded or 3))
    assert main(argv) == 0
    assert '), on 3 CPU threads\n' in capsys.readouterr().out
    assert load_artifact(tmp_path).results['hardware'].startswith('3 CPU threads')
    progress = json.loads((tmp_path / 'checkpoints' / 'checkpoint-0000002' / 'progress.json').read_text())
    assert progress['choices']['threads'] == 3
    monkeypatch.setattr('timm_sbs.training.run.train.settle_threads', lambda recorded: Threads(recorded or 1))
    assert main([*argv, '--resume', 'latest']) == 0
    assert '), on 3 CPU threads\n' in capsys.readouterr().out
