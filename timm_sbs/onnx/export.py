"""ONNX models of artifacts: a network, and nodes that compute its weights from what is stored."""
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from numpy.typing import DTypeLike
from onnx import helper, numpy_helper
from torch import Tensor, nn

from timm_sbs.codec.quantization import OUTPUT_SCALE, step_sizes
from timm_sbs.codec.tensor_file import stored_integers
from timm_sbs.common.config import ArtifactConfig
from timm_sbs.common.tensors import without_prefix
from timm_sbs.common.version import __version__
from timm_sbs.onnx.generated import Ordering, generated_weights
from timm_sbs.onnx.graph import FEW, Graph
from timm_sbs.onnx.integers import IntegerPool
from timm_sbs.onnx.network import INPUT, OUTPUT, STATISTICS, ExportedNetwork, export_network
from timm_sbs.onnx.norms import Norms
from timm_sbs.onnx.stored import Stored
from timm_sbs.predictor.generator import Generator

__all__ = ['plain_model', 'self_expanding_model', 'with_preprocessing']

OPSET, GELU_OPSET = 18, 20  # the lowest that torch exports, and the first with Gelu, on which predictors are built
NAMED = ('Gather', 'Slice')  # nodes of which ONNX Runtime, up to 1.20, makes others that are named after them
OTHER_FLOATS: dict[torch.dtype, DTypeLike] = {torch.float16: np.float16, torch.float64: np.float64}  # of networks


def self_expanding_model(
        network: nn.Module,
        input_size: Sequence[int],
        tensors: Mapping[str, Tensor],
        config: ArtifactConfig,
        generator: Generator,
        base_state: Mapping[str, Tensor],
        norm_eps: Mapping[str, float],
) -> onnx.ModelProto:
    """A network whose weights are computed by the graph from what model.safetensors holds.

    Args:
        network: The created model.
        input_size: Channels, height and width of its images.
        tensors: Of model.safetensors.
        generator: As a reader of these has it.
        base_state: Of the base model, which may be on the meta device.
        norm_eps: Of its BatchNorms, by prefix.

    Raises:
        ArtifactError: torch cannot export the network.
    """
    bits = config.quantization.kept_bits if config.quantization else 0
    predictor = generator.predictor.state_dict() if generator.specs else {}
    integers = stored_integers(tensors, config, predictor, base_state) if config.quantization else {}
    floats = {name: tensor for name, tensor in tensors.items() if name.startswith(('predictor.', 'kept.'))}
    stored = integers | floats
    kept = without_prefix('kept.', stored)
    norms = [prefix for prefix in norm_eps if all(f'{prefix}{part}' in kept for part in STATISTICS)]
    names = [*generator.names, *without_prefix('rounded.', integers), *kept]
    gelu = bool(generator.specs) and config.predictor.activation == 'gelu'
    exported = export_network(network, names, input_size, GELU_OPSET if gelu else OPSET, norms)

    pool, graph = IntegerPool(), Graph()
    prescales = {name: float(scale) for name, scale in generator.scales.items()}
    prescales |= {name: float(step_sizes(part.codes)) for name, part in without_prefix('rounded.', integers).items()}
    norm_values = Norms(exported.norms, kept, prescales, bits, pool)
    folded = {f'kept.{norm.prefix}{part}' for norm in exported.norms for part in STATISTICS}
    values = Stored({n: p for n, p in integers.items() if n not in folded},
                    {n: t for n, t in floats.items() if n not in folded}, bits, pool)
    orderings = {name: Ordering(generator, layer, pool) for layer, name in enumerate(generator.names)}
    decoded = pool.decode(graph)
    values.begin(graph, decoded)
    ranks = {name: base_state[name].dim() for name in names}
    factors, known = norm_values.values(graph, decoded, lambda name: values.value(f'kept.{name}'), ranks)
    state = network.state_dict()
    for name in stored:
        part, _, own = name.partition('.')
        if part != 'predictor' and name not in folded:
            value = values.value(name, factors.get(own))
            dtype = OTHER_FLOATS.get(state[own].dtype)
            known[own] = graph.cast(value, dtype) if dtype else value
    parameters = {name: values.value(f'predictor.{name}') for name in predictor if name != OUTPUT_SCALE}
    for name, value in generated_weights(graph, generator, parameters, orderings, decoded).items():
        factor = factors.get(name) or graph.constant(prescales[name], np.float32)
        known[name] = graph.add('Mul', value, factor)
    return _model(graph, exported, known)


def plain_model(network: nn.Module, input_size: Sequence[int]) -> onnx.ModelProto:
    """A network with its weights as constants, for runtimes that need these."""
    return _model(Graph(), export_network(network, (), input_size, OPSET, ()), {})


def with_preprocessing(model: onnx.ModelProto, mean: Sequence[float], std: Sequence[float]) -> onnx.ModelProto:
    """The same model for images as they are: uint8 [N, H, W, C] instead of normalized float32 [N, C, H, W]."""
    graph = Graph('_')
    values = graph.add('Transpose', graph.cast(INPUT, np.float32), perm=(0, 3, 1, 2))
    for op, numbers in (('Mul', 1 / (255 * np.array(std))), ('Add', -np.array(mean) / std)):
        values = graph.add(op, values, graph.constant(numbers.reshape(1, -1, 1, 1), np.float32))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    batch, channels, height, width = model.graph.input[0].type.tensor_type.shape.dim
    changed.graph.input[0].CopyFrom(helper.make_tensor_value_info(
        INPUT, onnx.TensorProto.UINT8, [batch.dim_param, height.dim_value, width.dim_value, channels.dim_value]))
    for node in changed.graph.node:
        node.input[:] = [values if name == INPUT else name for name in node.input]
    nodes = [*graph.nodes, *changed.graph.node]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(graph.constants)
    return changed


def _model(graph: Graph, exported: ExportedNetwork, known: Mapping[str, str]) -> onnx.ModelProto:
    """A model of the graph's nodes and then the network's, which read them by the names that are known."""
    names = {**known, INPUT: INPUT, OUTPUT: OUTPUT, '': ''}
    for constant in exported.graph.initializer:
        array = numpy_helper.to_array(constant)
        many = array.dtype.kind == 'i' and array.size > FEW
        names[constant.name] = graph.integers(array, array.dtype) if many else graph.constant(array)
    nodes = list(exported.graph.node)
    for node in nodes:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names.setdefault(name, graph.name()) for name in node.output]
        if node.op_type in NAMED:
            node.name = node.output[0]
    nodes, used = _used([*graph.nodes, *nodes])
    whole = helper.make_graph(
        nodes, 'timm_sbs', exported.graph.input, exported.graph.output,
        [constant for constant in graph.constants if constant.name in used])
    opsets = [helper.make_opsetid('', exported.opset)]
    return helper.make_model(
        whole, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets), producer_name='timm_sbs',
        producer_version=__version__)


def _used(nodes: Sequence[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes on which the output depends, and the names of all that they read."""
    used, found = {OUTPUT}, []
    for node in reversed(nodes):
        if used.intersection(node.output):
            used.update(node.input)
            found.append(node)
    return found[::-1], used
