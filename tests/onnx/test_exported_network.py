"""Networks whose weights are left open: BatchNorms that are folded or stay, and what torch cannot export."""
import logging

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import session
from timm.layers import ScaledStdConv2d
from torch import nn
from torch.nn import functional as F

from timm_sbs.common.errors import ArtifactError
from timm_sbs.onnx.network import STATISTICS, Norm, export_network

SIZE = (3, 8, 8)


class Net(nn.Module):
    """A module of layers, and how they are put together."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)
        torch.manual_seed(0)
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            if tensor.is_floating_point():
                tensor.data.uniform_(.5, 2.) if 'var' in name else tensor.data.normal_()

    def forward(self, x):
        return self.function(self, x).mean((2, 3))


def conv(**args):
    return nn.Conv2d(3, 4, 3, **args)


def exported(net, norms=('bn',)):
    """The exported network, after its outputs were compared with the net's for batches of some sizes: with values for
    what it leaves open, as others compute them."""
    state = {name: tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    found = export_network(net, [*state], SIZE, 18, [f'{name}.' for name in norms])
    values = {name: tensor.numpy() for name, tensor in state.items()}
    for norm in found.norms:
        weight, bias, mean, variance = (values[f'{norm.prefix}{part}'] for part in STATISTICS)
        scale = weight / np.sqrt(variance + norm.eps)
        values[f'{norm.prefix}shift'] = bias + (values[norm.bias] - mean if norm.bias else -mean) * scale
        values |= {f'{norm.prefix}scale': scale, f'{norm.prefix}zeros': 0 * scale, f'{norm.prefix}ones': 0 * scale + 1}
        if norm.weight:
            values[norm.weight] = values[norm.weight] * scale[:, None, None, None]
    read = {name for node in found.graph.node for name in node.input} - {
        constant.name for constant in found.graph.initializer}
    found.graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in values if name in read)
    opsets = [helper.make_opsetid('', found.opset)]
    model = helper.make_model(found.graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    for count in (1, 2, 5):
        images = torch.randn(count, *SIZE)
        with torch.no_grad():
            expected = net.eval()(images).numpy()
        result, = session(model).run(None, {'pixel_values': images.numpy()})
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    return found


def norm_nodes(found):
    return [node for node in found.graph.node if node.op_type == 'BatchNormalization']


@pytest.mark.parametrize('bias', [False, True])
def test_a_batch_norm_is_a_part_of_the_convolution_before_it(bias):
    found = exported(Net(lambda net, x: net.bn(net.conv(x)).relu(), conv=conv(bias=bias), bn=nn.BatchNorm2d(4, 1e-3)))
    norm, = found.norms
    assert (norm.prefix, norm.weight, norm.bias) == ('bn.', 'conv.weight', 'conv.bias' if bias else None)
    assert norm.eps == pytest.approx(1e-3) and not norm_nodes(found)


@pytest.mark.parametrize('function, layers', [
    (lambda net, x: net.bn(x), {}),  # nothing before it
    (lambda net, x: net.bn(net.conv(x)) + net.conv(x), dict(conv=conv())),  # the convolution twice, or its output
    (lambda net, x: (lambda y: net.bn(y) + y)(net.conv(x)), dict(conv=conv())),
    (lambda net, x: net.bn(net.conv(x) + net.conv(2 * x)), dict(conv=conv())),
    (lambda net, x: net.bn(net.conv(x).relu()), dict(conv=conv())),
    (lambda net, x: net.bn(net.conv(x)), dict(conv=ScaledStdConv2d(3, 4, 3))),  # a weight that is computed
    (lambda net, x: net.bn(net.conv(x)), dict(conv=nn.ConvTranspose2d(3, 4, 3))),
])
def test_it_stays_where_it_cannot_be(function, layers):
    found = exported(Net(function, bn=nn.BatchNorm2d(4 if layers else 3), **layers))
    assert found.norms == (Norm('bn.', found.norms[0].eps),)
    assert ['bn.scale', 'bn.shift', 'bn.zeros', 'bn.ones'] in [list(node.input[1:]) for node in norm_nodes(found)]


def test_only_those_that_are_named():
    net = Net(lambda net, x: net.other(net.bn(net.conv(x))), conv=conv(), bn=nn.BatchNorm2d(4), other=nn.BatchNorm2d(4))
    assert [norm.prefix for norm in exported(net).norms] == ['bn.']
    assert len(norm_nodes(exported(net, ()))) == 2
    assert [norm.weight for norm in exported(net, ('bn', 'other')).norms] == ['conv.weight', None]


@pytest.mark.parametrize('function', [
    lambda net, x: net.bn(net.conv(x)) + net.bn(net.other(x)),  # after convolutions of different biases
    lambda net, x: net.bn(net.conv(x)) * net.bn.weight[:, None, None],
])
def test_one_that_shares_tensors_stays_as_it_is(function):
    found = exported(Net(function, conv=conv(), other=conv(), bn=nn.BatchNorm2d(4)))
    assert not found.norms and norm_nodes(found)


def test_a_weight_that_modules_share_has_its_first_name():
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.weight = first.weight
    net = Net(lambda net, x: net.bn(net.second(net.first(x).relu())), first=first, second=second, bn=nn.BatchNorm2d(3))
    state = net.state_dict()
    names = [name for name in state if name != 'second.weight' and state[name].is_floating_point()]
    found = export_network(net, names, SIZE, 18, ['bn.'])
    weights = [node.input[1] for node in found.graph.node if node.op_type == 'Conv']
    assert weights == ['first.weight'] * 2 and found.norms[0].weight is None


@pytest.mark.parametrize('name', ['relu', 'conv2d', 'val_0', 'weights_0'])
def test_a_parameter_may_have_the_name_that_torch_gives_to_another_value(name):
    net = Net(lambda net, x: net.conv(x).relu() * getattr(net, name), conv=conv())
    net.register_parameter(name, nn.Parameter(torch.rand(4, 1, 1)))
    exported(net, ())


def test_nothing_of_the_exporter_is_left_and_nothing_is_printed(capfd, caplog):
    with caplog.at_level(logging.INFO):
        graph = export_network(Net(lambda net, x: net.conv(x), conv=conv()), ['conv.weight'], SIZE, 20, ()).graph
    assert [value.name for value in graph.input] == ['pixel_values']
    assert [value.name for value in graph.output] == ['logits']
    shape = graph.input[0].type.tensor_type
    assert shape.elem_type == TensorProto.FLOAT and shape.shape.dim[0].dim_param
    assert [dim.dim_value for dim in shape.shape.dim][1:] == [*SIZE]
    assert not (graph.value_info or graph.doc_string or graph.metadata_props)
    assert not any(node.name or node.doc_string or node.metadata_props for node in graph.node)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('function', [
    lambda net, x: x if x.sum() > 0 else -x,  # decided by the image
    lambda net, x: torch.linalg.eigvals(x).real,  # no such operator
], ids=['branch', 'operator'])
def test_what_torch_cannot_export_is_one_sentence(function, capfd):
    with pytest.raises(ArtifactError, match=r'torch .* cannot export Net to ONNX: \S') as raised:
        export_network(Net(function), [], SIZE, 18, ())
    assert '\n' not in str(raised.value) and len(str(raised.value)) < 500 and capfd.readouterr() == ('', '')
    assert not logging.root.manager.disable


def test_attention_of_five_dimensions_and_the_model_stays_as_it_is():
    """torch exports fused attention of four alone."""
    def attention(net, x):
        x = net.conv(x).relu()[:, None]
        if net.fused_attn:
            return F.scaled_dot_product_attention(x, x, x)[:, 0]
        return ((x @ x.mT / x.shape[-1] ** .5).softmax(-1) @ x)[:, 0]

    net = Net(attention, conv=conv())
    net.fused_attn = True
    exported(net, ())
    assert net.fused_attn is True
