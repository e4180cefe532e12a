"""Shared fixtures: a real network, the predictor that ships, and a small predictor fitted on the spot."""
import atexit
import copy
import csv
import dataclasses
import functools
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

# Before what reads them is imported: neither the caller's network nor the cores of the machine matter to a test.
os.environ.update(OMP_NUM_THREADS='1', HF_HOME=tempfile.mkdtemp(prefix='timm_sbs_tests_'), NO_PROXY='*', no_proxy='*')
os.environ.pop('HF_ENDPOINT', None)
os.environ.pop('HF_HUB_OFFLINE', None)
os.environ.pop('HF_TOKEN', None)
os.environ.pop('HF_TOKEN_PATH', None)
os.environ.pop('HF_HUB_CACHE', None)
os.environ.pop('HUGGING_FACE_HUB_TOKEN', None)
os.environ.pop('HUGGINGFACE_HUB_CACHE', None)
os.environ.pop('TRANSFORMERS_OFFLINE', None)

import pytest
import timm
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from resnet8 import NAME, write_weights

import timm_sbs
from timm_sbs.cli.demo import demo_batches, load_demo_images
from timm_sbs.common.config import StorageConfig
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.predictor.base_model import BaseModel
from timm_sbs.training import plan
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.loop import Context
from timm_sbs.training.phase_settings import Reconstruction
from timm_sbs.training.phases.reconstruction import reconstruct
from timm_sbs.training.settings import Target
from timm_sbs.training.trainable.generated_model import GeneratedModel

REPOSITORY = Path(__file__).parent.parent
sys.path.append(str(REPOSITORY / 'noncommercial'))  # as if it were installed
RESNET20 = Path(__file__).parent / 'data' / 'resnet20_cifar10.safetensors'
SHIPPED = 'sbs_resnet20_cifar10_20pct'
PREDICTORS = [SHIPPED, 'sbs_resnet56_cifar10_20pct']
IMAGENET_SHIPPED = 'sbs_resnet18_15pct'  # of the package for non-commercial use, as is the rounded one
LITES = 'sbs_tf_efficientnet_lite0_1500kb', 'sbs_tf_efficientnet_lite0_30pct'
ROUNDED = [
    'sbs_resnet20_cifar10_50kb', 'sbs_resnet20_cifar10_30kb', 'sbs_resnet56_cifar10_120kb', 'sbs_resnet56_cifar10_80kb']
IMAGENET_ROUNDED = 'sbs_resnet18_2mb'
CIFAR_ALL = [*PREDICTORS, *ROUNDED]
assert SHIPPED in timm.list_models(), f'importing timm_sbs {timm_sbs.__version__} registers no models'
atexit.register(shutil.rmtree, os.environ['HF_HOME'], ignore_errors=True)
torch.set_num_threads(1)


# Random cases of a test: a few of them each time, and all under -m slow. Both are the same ones each time.
FUZZ = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def few_or_all(few, all_of_them):
    """Parametrizes a test's argument 'count'."""
    return pytest.mark.parametrize('count', [few, pytest.param(all_of_them, marks=pytest.mark.slow)])


@pytest.fixture(scope='session', autouse=True)
def one_precision():
    """accelerate has one in a process: that of every machine, whatever this one has units for."""
    make_accelerator('no', cpu=True)
    plan.cpu_has_bf16_units = lambda: False


@pytest.fixture(scope='session', autouse=True)
def light_collections():
    """accelerate collects garbage after each phase of a run: what is imported is not looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def resnet8(tmp_path_factory) -> dict:
    """Settings of the trainer for a small network (``resnet8.py``), with reconstruction alone."""
    weights = write_weights(tmp_path_factory.mktemp('resnet8') / 'weights.safetensors', RESNET20)
    return dict(model=NAME, initial_checkpoint=str(weights), mixed_precision='no', second_order_steps=0)


def flags(**settings) -> list[str]:
    """Settings as the words of a command line."""
    words = []
    for name, value in settings.items():
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


@pytest.fixture(scope='session')
def small_model(resnet8) -> torch.nn.Module:
    """The network of ``resnet8``. Not to be changed."""
    return timm.create_model(NAME, checkpoint_path=resnet8['initial_checkpoint']).requires_grad_(False).eval()


@pytest.fixture(scope='session')
def resnet20() -> torch.nn.Module:
    """The published CIFAR-10 ResNet-20. Not to be changed."""
    model = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)
    return model.requires_grad_(False).eval()


_orderings = functools.cache(find_orderings)  # of a network that no test changes, the same each time


def started(original, pct=20., seed=0, **target):
    """A fresh artifact of a network, its kernels in order, with settings of :class:`Target`."""
    chosen = design(original, Target(pct=pct, **target))
    return start_artifact(chosen, _orderings(original, chosen.specs, chosen.generator.ordering), original, seed)


def fit_quickly(original, steps=20, pct=5., **target):
    """A predictor that has learned a little, in about a second."""
    context = Context()
    artifact = reconstruct(
        started(original, pct, **target), original.state_dict(), Reconstruction(steps=steps), context)
    return artifact.with_results(context.results)


class Notes(Context):
    """What a phase tells of its steps: logged figures by step, steps done, and artifacts that it considered."""

    def __init__(self) -> None:
        super().__init__()
        self.logged, self.done, self.considered = {}, [], []

    def log(self, step, figures):
        self.logged[step] = figures

    def step_done(self, step, module):
        self.done.append(step)

    def consider(self, artifact, when, fits=True, step=0):
        self.considered.append((step, fits))


class Doubtful(Notes):
    """Held-out images on which everything is far worse than what it is compared with."""

    def far_worse(self, artifact, other):
        other()
        return 10., 90.


_learned = functools.cache(fit_quickly)


def student_of(model, storage=StorageConfig(), **settings):
    """A generated model of one's own, after some steps of reconstruction."""
    artifact = _learned(model, 40, 20.)
    artifact = dataclasses.replace(artifact, generator=copy.deepcopy(artifact.generator), storage=storage)
    return GeneratedModel(artifact, copy.deepcopy(model), make_accelerator('no', cpu=True), **settings)


@pytest.fixture(scope='session')
def images():
    """The demo's 500 images, normalised [500, 3, 32, 32], and their classes."""
    cfg = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
    batches = list(demo_batches(load_demo_images(), cfg))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.fixture(scope='session')
def small_artifact(resnet20):
    return fit_quickly(resnet20)


@pytest.fixture()
def described_once(monkeypatch):
    """Building the base takes most of the time of loading, and is the same for most damaged files."""
    described, describe = {}, BaseModel.network.func

    def network(base):
        key = repr((base.name, base.args, base.pretrained_cfg))
        if key not in described:
            described[key] = describe(base)
        return described[key]

    monkeypatch.setattr(BaseModel, 'network', property(network))


@pytest.fixture()
def small_folder(small_artifact, tmp_path):
    """A written artifact of one's own, to be damaged at will."""
    small_artifact.save(tmp_path / 'small')
    return tmp_path / 'small'


def file_bytes(folder):
    """Size of an artifact's two files."""
    return sum((folder / name).stat().st_size for name in ('config.json', 'model.safetensors'))


def rows_of(folder):
    """A run's summary.csv."""
    with open(folder / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def equal(state, expected):
    """Whether two state dicts are the same, bit by bit."""
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def process(index=0, count=1):
    """One of the processes of a run, on the CPU."""
    return SimpleNamespace(process_index=index, num_processes=count, device=torch.device('cpu'))


def write_demo_images(root, splits):
    """Lay the images of the demo out as an ImageFolder: {split: indices of images}."""
    demo = load_demo_images()
    for split, indices in splits.items():
        for i in indices:
            folder = root / split / demo.class_names[demo.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(demo.images[i]).save(folder / f'{i:03}.png')
    return root


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
    """The demo's images: 100 for validation, 400 for training."""
    return write_demo_images(tmp_path_factory.mktemp('images'), {
        'validation': range(0, 500, 5), 'train': [i for i in range(500) if i % 5]})


def described(artifact, **fields):
    """The same artifact with other fields of pretrained_cfg."""
    cfg = {**artifact.base.pretrained_cfg, **fields}
    return dataclasses.replace(artifact, base=dataclasses.replace(artifact.base, pretrained_cfg=cfg))
