"""Sums in float64 on devices that do not have it. There is no such device here, so a stand-in says so of the CPU."""
import re
from pathlib import Path

import pytest
import torch

import timm_sbs
from timm_sbs.codec.bit_allocation import measure_influence
from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import rounded_predictor
from timm_sbs.codec.tensor_file import Contents, to_tensors
from timm_sbs.common import float64
from timm_sbs.common.config import QuantizationConfig, StorageConfig
from timm_sbs.common.float64 import as_float64, float64_device, has_float64
from timm_sbs.common.prefixes import with_prefix
from timm_sbs.predictor.generator import relative_error

PACKAGE = Path(timm_sbs.__file__).parent


def test_devices():
    assert has_float64(torch.device('cuda')) and has_float64(torch.device('cpu'))
    assert not has_float64(torch.device('mps')) and float64_device(torch.device('mps')).type == 'cpu'
    assert float64_device(torch.device('cuda', 1)) == torch.device('cuda', 1)
    assert as_float64(torch.ones(2, dtype=torch.float16)).dtype == torch.float64


@pytest.fixture()
def results(small_artifact):
    """All that is computed in float64: of a predictor, of kept tensors, of the weights."""
    generator, config = small_artifact.generator, small_artifact.config
    state = generator.predictor.state_dict()
    contents = Contents(state, generator.frequencies, generator.permutations, small_artifact.kept)

    def compute():
        layers = sum(name.endswith('.weight') for name in state)
        quantization = QuantizationConfig((5.,) * layers)
        weights = generator()
        return {
            **rounded_predictor(state, quantization), **weights,
            'frequencies': to_tensors(contents, config, generator.specs)['frequencies'],
            **with_prefix('kept.', stored_kept(
                small_artifact.kept, StorageConfig(quantization=quantization), small_artifact.base.norm_eps)),
            'numbers': torch.tensor([
                relative_error({name: w + 1 for name, w in weights.items()}, weights),
                *(layer.error for layer in measure_influence(generator))], dtype=torch.float64)}

    return compute


def test_the_cpu_in_its_place_gives_the_same(results, monkeypatch):
    expected, asked = results(), []
    monkeypatch.setattr(float64, 'has_float64', lambda device: asked.append(device))
    found = results()
    assert found.keys() == expected.keys() and len(asked) > 2 * len(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize('room', ['artifact', 'codec', 'common', 'models', 'plots', 'predictor'])
def test_tensors_become_float64_in_one_place(room):
    for path in (PACKAGE / room).rglob('*.py'):
        assert not re.search(r'\.double\(', path.read_text()) or path.name == 'float64.py', path
