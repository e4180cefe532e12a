"""A network as ONNX nodes whose weights are values that somebody else computes."""
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.common.errors import ArtifactError, short_reason

__all__ = ['INPUT', 'OUTPUT', 'ExportedNetwork', 'Norm', 'export_network']

INPUT, OUTPUT = 'pixel_values', 'logits'
STATISTICS = ('weight', 'bias', 'running_mean', 'running_var')


@dataclass(frozen=True)
class Norm:
    """A BatchNorm of the network, by the prefix of its tensors' names, such as 'layer1.0.bn1.'.

    Attributes:
        eps: What it adds to its variances.
        weight: Of the convolution before it that it is folded into; None where it stays a node of its own.
        bias: Of that convolution, if it has one.
    """
    prefix: str
    eps: float
    weight: str | None = None
    bias: str | None = None


@dataclass(frozen=True)
class ExportedNetwork:
    """Nodes from ``INPUT`` to ``OUTPUT``, whose other inputs are constants, names of weights, or, of a Norm, its prefix
    and 'scale' or 'shift'."""
    graph: onnx.GraphProto
    norms: tuple[Norm, ...]
    opset: int


class _Functional(nn.Module):
    """A model that is given its weights with each call."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, pixel_values: Tensor, weights: list[Tensor]) -> Tensor:
        return functional_call(self.model, dict(zip(self.names, weights)), (pixel_values,))


def export_network(
        model: nn.Module, names: Sequence[str], input_size: Sequence[int], opset: int, norms: Collection[str],
) -> ExportedNetwork:
    """Trace a model with a batch of any size.

    Args:
        names: Of the parameters and buffers that are left open.
        input_size: Channels, height, width.
        norms: Prefixes of BatchNorms of which all tensors are among these.

    Raises:
        ArtifactError: torch cannot export the model.
    """
    state = model.state_dict()
    weights = [state[name].detach() for name in names]
    images = torch.zeros(2, *input_size)
    try:
        with _quiet(), _unfused_attention(model), torch.no_grad():
            program = torch.onnx.export(
                _Functional(model.eval(), names), (images, weights), dynamo=True, opset_version=opset, verbose=False,
                input_names=[INPUT, *(f'/{name}' for name in names)], output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim('batch')}, [None] * len(names)))
            assert program is not None
            graph = program.model_proto.graph
    except Exception as e:  # whatever torch raises
        reason = str(e).strip().rpartition('## Exception summary')[2]
        raise ArtifactError(
            f'torch {torch.__version__} cannot export {type(model).__name__} to ONNX: {short_reason(Exception(reason))}'
        ) from e
    _strip(graph)
    _name_weights(graph, names)
    return ExportedNetwork(graph, tuple(_fold_norms(graph, set(names), set(norms))), opset)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own reports, which go to the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()),
              contextlib.redirect_stderr(io.StringIO())):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _unfused_attention(model: nn.Module) -> Iterator[None]:
    """With attention in matrix products, as timm's models can have it: torch exports the fused one of four dimensions
    alone."""
    fused: list[Any] = [module for module in model.modules() if getattr(module, 'fused_attn', None) is True]
    try:
        for module in fused:
            module.fused_attn = False
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def _strip(graph: onnx.GraphProto) -> None:
    """Leave only what a runtime needs."""
    del graph.value_info[:], graph.metadata_props[:], graph.input[1:]
    graph.ClearField('doc_string')
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField('doc_string')
        node.ClearField('name')
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = 'N'


def _name_weights(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Give weights their own names. They were traced with others, as torch names values by operators: 'relu' is one of
    its names, and may be one of a parameter."""
    swapped = {f'/{name}': name for name in names} | {name: f'/{name}' for name in names}
    for node in graph.node:
        node.input[:] = [swapped.get(name, name) for name in node.input]
        node.output[:] = [swapped.get(name, name) for name in node.output]
    for constant in graph.initializer:
        constant.name = swapped.get(constant.name, constant.name)


def _fold_norms(graph: onnx.GraphProto, names: set[str], known: Collection[str]) -> Iterator[Norm]:
    """Make each BatchNorm a part of the convolution before it, where nothing else uses that, and its weight is left
    open as it is; else the same node with two tensors instead of four. One that shares tensors stays as it is."""
    producers = {output: node for node in graph.node for output in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    for norm in [node for node in graph.node if node.op_type == 'BatchNormalization']:
        prefix, own = norm.input[1].removesuffix(STATISTICS[0]), list(norm.input[1:])
        if prefix not in known or own != [f'{prefix}{part}' for part in STATISTICS] or any(uses[n] > 1 for n in own):
            continue
        eps = next((attribute.f for attribute in norm.attribute if attribute.name == 'epsilon'), 1e-5)  # ONNX's default
        before = producers.get(norm.input[0])
        if (before is not None and before.op_type == 'Conv' and uses[norm.input[0]] == uses[before.input[1]] == 1
                and names.issuperset(before.input[1:])):
            weight, bias = before.input[1], before.input[2] if len(before.input) > 2 else None
            yield Norm(prefix, eps, weight, bias)
            before.input[:] = [before.input[0], weight, f'{prefix}shift']
            before.output[0] = norm.output[0]
            graph.node.remove(norm)
        else:
            yield Norm(prefix, eps)
            norm.input[1:] = [f'{prefix}scale', f'{prefix}shift', f'{prefix}zeros', f'{prefix}ones']
            for attribute in norm.attribute:
                if attribute.name == 'epsilon':
                    attribute.f = 0.
