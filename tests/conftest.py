"""Shared fixtures: a real network, the predictor that ships, and a small predictor fitted on the spot."""
import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import timm_sbs
from timm_sbs.artifact import save_artifact
from timm_sbs.demo import load_demo_images
from timm_sbs.training.fit import design, find_orderings, start_fit
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.settings import ReconstructionSettings

REPOSITORY = Path(__file__).parent.parent
RESNET20 = Path(__file__).parent / 'data' / 'resnet20_cifar10.safetensors'
SHIPPED = 'sbs_resnet20_cifar10_20pct'
assert SHIPPED in timm.list_models(), f'importing timm_sbs {timm_sbs.__version__} registers no models'


@pytest.fixture(scope='session')
def resnet20() -> torch.nn.Module:
    """The published CIFAR-10 ResNet-20. Not to be changed."""
    model = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)
    return model.requires_grad_(False).eval()


def fit_quickly(original, steps=20, pct=5., **settings):
    """A predictor that has learned a little, in about a second."""
    config, pretrained_cfg, specs = design(original, pct=pct, **settings)
    fit = start_fit(config, pretrained_cfg, specs, find_orderings(original, specs, config.ordering), seed=0)
    results = reconstruct(fit.predictor, fit.plan, original.state_dict(), ReconstructionSettings(steps=steps))
    return fit.artifact(original, results)


@pytest.fixture(scope='session')
def small_artifact(resnet20):
    return fit_quickly(resnet20)


@pytest.fixture()
def small_folder(small_artifact, tmp_path):
    """A written artifact of one's own, to be damaged at will."""
    save_artifact(tmp_path / 'small', small_artifact)
    return tmp_path / 'small'


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
def train_sbs():
    """The top-level script as a module."""
    spec = importlib.util.spec_from_file_location('train_sbs', REPOSITORY / 'train_sbs.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
