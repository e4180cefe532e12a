"""On a GPU: what is generated, trained and gone on with there is what a CPU would have. Skipped where there is none.

    pytest -m cuda

Runs of the trainer are processes of their own: accelerate keeps one device in a process, and that of the other tests is
the CPU.
"""
import itertools
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import timm
import torch
from conftest import IMAGENET_SHIPPED, RESNET20, SHIPPED, file_bytes, flags

from timm_sbs.artifact.folder import load_artifact, shipped_folder
from timm_sbs.common.products import float32_products
from timm_sbs.data.loaders import train_batches
from timm_sbs.data.settings import ImageSettings
from timm_sbs.predictor.generator import relative_error

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(
    not torch.accelerator.is_available(), reason="needs a GPU: NVIDIA's, AMD's, or Apple's MPS")]
DEVICE = torch.device('cpu')
if torch.accelerator.is_available():
    DEVICE = torch.accelerator.current_accelerator()
on_cuda = pytest.mark.skipif(DEVICE.type != 'cuda', reason='needs CUDA')
MODEL = dict(model='resnet20_cifar10', initial_checkpoint=RESNET20, workers=0, batch_size=50)
ALL_PHASES = dict(bits=6, reconstruction_steps=200, statistics_images=100, second_order_steps=50, distillation_steps=20,
                  lr=1e-4)


def run(env=None, launcher=(), **settings):
    """The trainer in a process of its own, or several, with what it printed."""
    done = subprocess.run(
        [sys.executable, '-m', *launcher, 'timm_sbs.train', *flags(**{**MODEL, **settings})],
        env={**os.environ, **(env or {})}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_two(**settings):
    """On two processes, as a user starts them."""
    run(launcher=('accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1',
                  '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', '0', '-m'), **settings)


def distance(one, other):
    """Relative squared distance of the weights of two artifacts."""
    return relative_error(load_artifact(one).generator(), load_artifact(other).generator())


@pytest.mark.parametrize('name', [SHIPPED, IMAGENET_SHIPPED])
def test_generation_is_that_of_the_cpu_whatever_precision_the_caller_allows(name):
    generator = load_artifact(shipped_folder(name)).generator
    expected = generator()
    generator.to(DEVICE)
    with float32_products('tf32'), torch.autocast(DEVICE.type, torch.float16):
        found = generator()
    for weight, kernels in found.items():
        assert kernels.device.type == DEVICE.type and kernels.dtype == torch.float32
        # Of a layer's largest value, which is what docs/format.md states.
        assert (kernels.cpu() - expected[weight]).abs().max() <= 1e-5 * expected[weight].abs().max()


@on_cuda
def test_generation_takes_little_memory():
    generator = load_artifact(shipped_folder(IMAGENET_SHIPPED)).generator.to(DEVICE)
    generator()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    size = sum(weight.nbytes for weight in generator().values())
    assert torch.cuda.max_memory_allocated() - before < size + 150e6


def test_a_created_model_predicts_as_on_the_cpu(images):
    batch = images[0][:50]
    expected = timm.create_model(SHIPPED, pretrained=True).eval()(batch)
    moved = timm.create_model(SHIPPED, pretrained=True).eval().to(DEVICE)
    with torch.device(DEVICE):
        made_there = timm.create_model(SHIPPED, pretrained=True).eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.no_grad():
        for model in (moved, made_there):
            assert next(model.parameters()).device.type == DEVICE.type
            torch.testing.assert_close(model(batch.to(DEVICE)).cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('precision', ['no', pytest.param('bf16', marks=on_cuda), pytest.param('fp16', marks=on_cuda)])
def test_all_phases_end_in_an_artifact_that_a_cpu_loads(tmp_path, image_folder, precision):
    run(**ALL_PHASES, data_dir=image_folder, mixed_precision=precision, output=tmp_path)
    results = load_artifact(tmp_path).results
    assert results['mixed_precision'] == precision
    assert results['original_top1'] >= 85 and results['top1'] >= 75
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())


def test_weights_are_rounded_and_trained_into_so_many_bytes(tmp_path, image_folder):
    run(data_dir=image_folder, bytes='60k', statistics_images=100, distillation_steps=20, mixed_precision='no',
        output=tmp_path)
    assert file_bytes(tmp_path) <= 60_000
    assert load_artifact(tmp_path).results['top1'] >= 80


@on_cuda
def test_auto_takes_a_half_precision(tmp_path):
    told = run(reconstruction_steps=5, output=tmp_path)
    assert load_artifact(tmp_path).results['mixed_precision'] in ('bf16', 'fp16')
    assert 'computing in ' in told and torch.cuda.get_device_name() in load_artifact(tmp_path).results['hardware']


def test_reconstruction_ends_where_a_cpu_does(tmp_path):
    """The same kernels in the same order, with other rounding."""
    settings = dict(reconstruction_steps=300, mixed_precision='no')
    run(**settings, output=tmp_path / 'gpu')
    run({'CUDA_VISIBLE_DEVICES': '', 'ACCELERATE_USE_CPU': 'true'}, **settings, output=tmp_path / 'cpu')
    errors = [load_artifact(tmp_path / name).results['reconstruction_error'] for name in ('gpu', 'cpu')]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)


def test_a_resumed_run_ends_as_one_that_never_stopped(tmp_path, image_folder):
    """Not bit for bit: sums on a GPU have no fixed order."""
    settings = dict(**ALL_PHASES, images=image_folder / 'train', holdout_images=0, checkpointing_steps=15)
    run(**settings, output=tmp_path / 'whole')
    shutil.copytree(tmp_path / 'whole', tmp_path / 'resumed')
    progress = sorted((tmp_path / 'resumed').glob('**/progress.json'))[-1]
    assert json.loads(progress.read_text())['phase'] == 'distillation'
    run(**settings, resume=progress.parent, output=tmp_path / 'resumed')
    assert distance(tmp_path / 'resumed', tmp_path / 'whole') < 1e-3


@pytest.mark.parametrize('wanted', [1, None])  # read, or kept in memory
def test_batches_are_augmented_as_on_the_cpu(image_folder, wanted):
    """Also while the device is busy with what came before."""
    settings = ImageSettings(data_dir=str(image_folder), batch_size=50, workers=0)
    cfg = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
    expected, batches = (
        train_batches(settings, cfg, SimpleNamespace(process_index=0, num_processes=1, device=device), 1, wanted)
        for device in (torch.device('cpu'), DEVICE))
    found, work = batches.starting_at(0), torch.randn(4096, 4096, device=DEVICE)
    for images in itertools.islice(expected.starting_at(0), 10):
        work @ work
        moved = next(found)
        assert moved.device.type == DEVICE.type
        torch.testing.assert_close(moved.cpu(), images)


@on_cuda
def test_two_processes_share_one_card(tmp_path, image_folder):
    """They talk through gloo, and share out the kernels, so that reconstruction ends where one process does."""
    settings = dict(reconstruction_steps=300, mixed_precision='no', second_order_steps=0)
    run(**settings, output=tmp_path / 'one')
    run_two(**settings, output=tmp_path / 'two')
    errors = [load_artifact(tmp_path / name).results['reconstruction_error'] for name in ('one', 'two')]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)
    run_two(**ALL_PHASES, data_dir=image_folder, output=tmp_path / 'phases')
    results = load_artifact(tmp_path / 'phases').results
    assert results['hardware'].startswith('2 processes') and results['top1'] >= 75
