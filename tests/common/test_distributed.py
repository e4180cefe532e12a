import json

import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY, RESNET20
from processes import launch, run

from timm_sbs.common import distributed
from timm_sbs.common.distributed import decided_once, gather_shares, processes, share, sum_gradients
from timm_sbs.common.errors import SbsError


class Process:
    def __init__(self, index, count):
        self.process_index, self.num_processes = index, count


@pytest.mark.parametrize('count', [0, 1, 5, 6, 7, 100])
@pytest.mark.parametrize('processes', [1, 2, 3, 8])
def test_shares_cover_all_rows_in_order(count, processes):
    rows = list(range(count))
    shares = [rows[share(count, Process(i, processes))] for i in range(processes)]
    assert sum(shares, []) == rows
    assert all(len(s) == len(shares[0]) or not any(shares[i + 1:]) for i, s in enumerate(shares))


def test_one_process_has_everything():
    accelerator = Accelerator(cpu=True)
    rows = torch.arange(6.)
    assert gather_shares(rows, 6, accelerator) is rows
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.)
    sum_gradients([parameter], accelerator)
    assert parameter.grad.tolist() == [3., 3.]
    assert decided_once(lambda: {'bits': (5., 4.)}, accelerator) == {'bits': (5., 4.)}


class Doubled(Process):
    """Of two processes that have the same."""

    @staticmethod
    def reduce(tensor, reduction):
        return 2 * tensor


def test_summed_gradients_are_laid_out_as_their_parameters():
    """torch's fused optimizers ask for it."""
    weights = [torch.nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)),
               torch.nn.Parameter(torch.ones(3, 2).T), torch.nn.Parameter(torch.ones(5))]
    for weight in weights[:2]:
        weight.grad = torch.arange(float(weight.numel())).view_as(weight)
    sum_gradients(weights, Doubled(0, 2), scale=0.5)
    assert all(weight.grad.stride() == weight.stride() for weight in weights)
    for weight in weights[:2]:
        assert torch.equal(weight.grad, torch.arange(float(weight.numel())).view_as(weight))
    assert weights[2].grad.count_nonzero() == 0


@pytest.mark.parametrize('local, devices, forbidden, expected', [
    (1, 0, '', {'cpu': True}), (4, 4, '', {}), (2, 1, '', {'backend': 'gloo'}), (4, 4, 'true', {'cpu': True})])
def test_processes_talk_as_their_devices_let_them(monkeypatch, local, devices, forbidden, expected):
    class State:
        def __init__(self, **options):
            self.options, self.local_process_index = options, local - 1

    monkeypatch.setattr(distributed, 'PartialState', State)
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: bool(devices))
    monkeypatch.setattr(torch.accelerator, 'device_count', lambda: devices)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(local))
    monkeypatch.setenv('ACCELERATE_USE_CPU', forbidden)
    state = processes()
    assert state.options == expected
    assert state.local_process_index == ((local - 1) % devices if 'backend' in expected else local - 1)


def test_processes_that_do_not_meet_are_one_sentence(monkeypatch):
    def refuse(**options):
        raise RuntimeError('no port is free')

    monkeypatch.setattr(distributed, 'PartialState', refuse)
    with pytest.raises(SbsError, match='accelerate cannot start: no port is free'):
        processes()


def test_two_processes_do_what_the_main_one_decides():
    printed = json.loads(launch(2, REPOSITORY / 'tests' / 'decision_worker.py').splitlines()[-1])
    assert printed['calls'] == [1, 0]
    assert printed['decided'] == [{'bits': [5., 4.], 'by': 0}] * 2
    assert printed['refused'] == ['process 0 refuses'] * 2


def test_two_processes_reconstruct_what_one_does_with_half_of_the_work_each():
    """gloo on the CPU, the same global batch."""
    steps, batch_size = 120, 2048
    one, two = (json.loads(launch(
        n, REPOSITORY / 'tests' / 'reconstruction_worker.py', RESNET20, steps, batch_size)) for n in (1, 2))
    assert two['processes_agree'] and one['error'] < 0.4
    assert two['error'] == pytest.approx(one['error'], rel=0.02)
    assert one['tokens'][0] == sum(two['tokens']) == 2 * two['tokens'][0]


def test_two_processes_share_statistics_and_filters():
    """The same images and the same batches of filters, so the same results up to what is drawn at random."""
    one, two = (json.loads(launch(n, REPOSITORY / 'tests' / 'second_order_worker.py', RESNET20).splitlines()[-1])
                for n in (1, 2))
    assert (one['processes'], two['processes']) == (1, 2) and two['processes_agree']
    for name, energy in one['energies'].items():
        assert two['energies'][name] == pytest.approx(energy, rel=0.2)
    for step in ('filters', 'whole'):
        assert two[step] == pytest.approx(one[step], rel=1e-3) and one[step] < one['before']


def test_whole_runs_on_two_processes(tmp_path, image_folder):
    """Both phases through the trainer: every process generates half of the kernels and sees half of the images."""
    results = []
    for count in (1, 2):
        out = tmp_path / str(count)
        launch(
            count, '-m', 'timm_sbs.train', '--model', 'resnet20_cifar10', '--initial-checkpoint', RESNET20,
            '--reconstruction-steps', 120, '--second-order-steps', 0, '--mixed-precision', 'no',
            '--data-dir', image_folder, '--distillation-steps', 4, '--eval-interval', 2,
            '--lr', '3e-4', '--batch-size', 40 // count, '--workers', 0, '--train-kept', 'norm', '--output', out,
            '--checkpointing-steps', 2)
        results.append(json.loads((out / 'config.json').read_text())['sbs']['results'])
    one, two = results
    assert two['reconstruction_error'] == pytest.approx(one['reconstruction_error'], rel=0.02)
    assert (two['original_top1'], two['images']) == (one['original_top1'], 100)
    # with stored statistics, two half batches on two processes are one batch
    assert two['top1'] == pytest.approx(one['top1'], abs=4) and one['holdout_images'] == two['holdout_images'] == 40
    assert two['holdout_divergence'] == pytest.approx(one['holdout_divergence'], rel=0.1)
    assert two['distillation_steps'] == 4 and two['hardware'].startswith('2 processes')
    resumed = run('-m', 'timm_sbs.train', '--config', tmp_path / '2' / 'args.yaml', '--resume', 'latest')
    assert resumed.returncode == 2 and '--num-processes 2, but this run has 1' in resumed.stderr
