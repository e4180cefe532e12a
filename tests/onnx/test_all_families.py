"""Every family of networks as an ONNX model: of rounded weights, and of a quantized predictor with others rounded.

    pytest -m slow tests/onnx/test_all_families.py
"""
import copy

import pytest
import timm
import torch
from conftest import fit_quickly, started
from families import LARGE, LARGEST_PREDICTOR, SMALL, slow_unless

from timm_sbs.onnx import export
from timm_sbs.onnx.check import TOLERANCE

QUICK = {'test_resnet', 'regnetx_002'}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """Tracing takes most of the time, and is the same for both artifacts of a network, but for the order of names."""
    traced, trace = {}, export.export_network

    def export_network(network, names, input_size, opset, norms):
        key = frozenset(names), frozenset(norms)
        if key not in traced:
            traced[key] = trace(network, sorted(names), input_size, export.GELU_OPSET, norms)
        return copy.deepcopy(traced[key])

    monkeypatch.setattr(export, 'export_network', export_network)


@pytest.mark.parametrize('name', [slow_unless(name in QUICK, name) for name in (*SMALL.values(), *LARGE.values())])
def test_outputs_are_those_of_pytorch(name, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name).requires_grad_(False).eval()
    for key, tensor in model.named_buffers():
        if key.endswith(('running_mean', 'running_var')):
            tensor.uniform_(.5, 1.5)
    for parameter in model.parameters():
        if parameter.min() == parameter.max():  # zeros of a classifier, or scales of 1e-6, which would hide the rest
            parameter.add_(torch.rand_like(parameter) / 2)
    values = sum(parameter.numel() for parameter in model.parameters())
    rounded = started(model, None, bytes=3 * values // 8 + 50_000)
    predictor = fit_quickly(  # standardized convolutions magnify errors of a predictor that has learned nothing
        model, steps=10, pct=min(7., 100 * LARGEST_PREDICTOR / values), bits=5., order_over='nothing',
        num_frequencies=8, linear_layers=3)
    for artifact in (rounded, predictor):
        assert artifact.export_onnx(tmp_path / 'a.onnx').difference <= TOLERANCE
