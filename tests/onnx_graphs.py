"""Values of ONNX graphs, as ONNX Runtime or ONNX's own reference implementation computes them."""
import numpy as np
import onnxruntime
from onnx import TensorProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator

OPSET = 20


def model_of(graph, names):
    """A model without inputs whose outputs are values of a :class:`timm_sbs.onnx.graph.Graph`."""
    nodes = [*graph.nodes, *(helper.make_node('Identity', [name], [f'out.{i}']) for i, name in enumerate(names))]
    outputs = [ValueInfoProto(name=f'out.{i}') for i in range(len(names))]  # of any type
    opsets = [helper.make_opsetid('', OPSET)]
    return helper.make_model(
        helper.make_graph(nodes, 'values', [], outputs, graph.constants), opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets))


def values_of(graph, names):
    """The arrays of some values."""
    return session(model_of(graph, names)).run(None, {}) if names else []


def values_by_reference(graph, names):
    return ReferenceEvaluator(model_of(graph, names)).run(None, {})


def session(model):
    """Of a model or its bytes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])


def nbytes(graph):
    """What a graph's nodes and constants take in a file."""
    return model_of(graph, []).ByteSize()


def as_model(nodes, output, constants=()):
    """A model from 'pixel_values' [N, 3, 4, 4] to 'logits', by hand."""
    graph = helper.make_graph(
        nodes, 'by_hand', [helper.make_tensor_value_info('pixel_values', TensorProto.FLOAT, ['batch', 3, 4, 4])],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, output)],
        [helper.make_tensor(name, TensorProto.FLOAT, np.shape(values), np.ravel(values)) for name, values in constants])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=9).SerializeToString()
