"""Models that ONNX Runtime cannot run, that leave weights to be computed, or that say something else."""
import errno
import sys

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_graphs import as_model
from torch import nn

from timm_sbs.common.errors import ArtifactError
from timm_sbs.onnx.check import check_model

MEAN, STD = (.4, .5, .6), (.2, .3, .25)
WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
POOLED = [helper.make_node('GlobalAveragePool', ['pixel_values'], ['pooled']),
          helper.make_node('Flatten', ['pooled'], ['flat'])]


class Pooled(nn.Module):
    """Four classes of the mean colour."""

    def forward(self, x):
        return x.mean((2, 3)) @ torch.from_numpy(WEIGHT).T


def product(weight):
    return helper.make_node('Gemm', ['flat', weight], ['logits'], transB=1)


def checked(nodes, constants, **options):
    return check_model(as_model([*POOLED, *nodes], ('batch', 4), constants), Pooled(), MEAN, STD, **options)


def test_a_model_that_agrees():
    nodes = [helper.make_node('Mul', ['half', 'two'], ['w']), product('w')]
    found = checked(nodes, [('half', WEIGHT / 2), ('two', 2.)])
    assert 0 <= found.difference < 1e-6 and found.version.count('.') >= 1


def test_weights_that_would_be_computed_with_each_image():
    nodes = [helper.make_node('RandomUniformLike', ['w'], ['noise'], low=0., high=1e-9),
             helper.make_node('Add', ['w', 'noise'], ['v'])]
    with pytest.raises(ArtifactError, match='would compute weights anew for each image, in 2 nodes. Use --plain'):
        checked([*nodes, product('v')], [('w', WEIGHT)])
    assert checked([*nodes, product('v')], [('w', WEIGHT)], plain=True)  # where there are none: the network's own


@pytest.mark.parametrize('factor', [1.001, np.nan, np.inf])
def test_other_outputs(factor):
    with pytest.raises(ArtifactError, match="outputs of onnxruntime .* differ from the network's by"):
        checked([product('w')], [('w', WEIGHT * factor)])


@pytest.mark.parametrize('data', [b'', b'no model', as_model([*POOLED, product('nowhere')], ['batch', 4])])
def test_what_is_no_model(data):
    with pytest.raises(ArtifactError, match='cannot run the model: .*pip install --upgrade onnxruntime') as raised:
        check_model(data, Pooled(), MEAN, STD)
    assert '\n' not in str(raised.value)


def test_a_model_for_one_size_of_batches():
    """That of tracing."""
    nodes = [helper.make_node('Constant', [], ['shape'], value_ints=[2, 3]),
             helper.make_node('Reshape', ['flat', 'shape'], ['two']),
             helper.make_node('Gemm', ['two', 'w'], ['logits'], transB=1)]
    model = as_model([*POOLED, *nodes], [2, 4], [('w', WEIGHT)])
    with pytest.raises(ArtifactError, match='cannot run the model'):
        check_model(model, Pooled(), MEAN, STD)


def test_without_onnxruntime_nothing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert check_model(b'no model', Pooled(), MEAN, STD) is None


def test_without_a_temporary_folder(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('tempfile.mkdtemp', full)
    with pytest.raises(ArtifactError, match='needs a temporary folder: .*No space left on device'):
        checked([product('w')], [('w', WEIGHT)])
