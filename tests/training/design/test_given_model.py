"""What a fit works on: timm's own network with the tensors of the given model, if both compute the same."""
import copy

import pytest
import timm
import torch
from torch import nn

from timm_sbs.common.errors import SbsError, TargetError
from timm_sbs.training.design.given_model import adopted, unwrapped

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='module')
def network(resnet8):
    return lambda **kwargs: timm.create_model(
        resnet8['model'], checkpoint_path=resnet8['initial_checkpoint'], **kwargs)


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


def replaced(name, module):
    def change(model):
        owner, _, own = name.rpartition('.')
        setattr(model.get_submodule(owner), own, module)

    return change


@pytest.mark.parametrize('make', [
    lambda network: network(act_layer='silu', drop_path_rate=0.1, global_pool='max'),
    lambda network: timm.create_model('resnet8_cifar10', in_chans=3, num_classes=0),
    lambda network: torch.compile(network(), backend='eager'), lambda network: nn.DataParallel(network())])
def test_it_computes_what_the_given_model_computes(network, make):
    given = make(network)
    original = adopted(unwrapped(given))
    assert torch.allclose(outputs(original), outputs(given), atol=1e-5)
    assert not original.training and not any(p.requires_grad for p in original.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_any_precision_becomes_float32_and_hides_no_other_function(network, dtype):
    given = network().to(dtype)
    original = adopted(given)
    assert {t.dtype for t in original.state_dict().values() if t.is_floating_point()} == {torch.float32}
    assert all(torch.equal(tensor, given.state_dict()[name].to(tensor.dtype))
               for name, tensor in original.state_dict().items())
    for module in given.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    with pytest.raises(TargetError, match='outputs differ by'):
        adopted(given)


def test_one_tensor_may_be_of_another_precision(network):
    given = network()
    given.bn1.running_var, given.bn1.running_mean = given.bn1.running_var.double(), given.bn1.running_mean.double()
    assert adopted(given).bn1.running_var.dtype == torch.float32
    given.layer1[0].conv1.half()
    assert adopted(given).layer1[0].conv1.weight.dtype == torch.float32
    assert len({tensor.dtype for tensor in given.state_dict().values()}) == 4


def test_the_given_model_stays_as_it_is(network):
    given = network().train()
    given.layer2.eval()
    calls = []
    given.register_forward_hook(lambda *_: calls.append(1))
    modes, state = [m.training for m in given.modules()], copy.deepcopy(given.state_dict())
    original = adopted(given)
    assert [m.training for m in given.modules()] == modes and all(p.requires_grad for p in given.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in given.state_dict().items())
    original.conv1.weight.zero_()
    assert given.conv1.weight.any() and len(given._forward_hooks) == 1 and not original._forward_hooks


@pytest.mark.parametrize('change, says', [
    (replaced('act1', nn.SiLU()), r'outputs differ by .* %\. Pass the arguments .* model_kwargs'),
    (lambda m: setattr(m.bn1, 'eps', 0.1), 'outputs differ by'),
    (lambda m: setattr(m.layer2[0].conv1, 'stride', (1, 1)), 'cannot be run|outputs differ'),
    (lambda m: setattr(m.global_pool, 'pool', nn.AdaptiveMaxPool2d(1)), 'outputs differ by'),
    (replaced('linear', nn.Sequential(nn.Dropout(), nn.Linear(64, 10))), 'not what timm builds as'),
    (lambda m: nn.utils.parametrizations.weight_norm(m.conv1), 'not what timm builds as'),
    (lambda m: m.conv1.weight.data.fill_(float('nan')), "'conv1.weight' .* not finite"),
    (lambda m: m.bn1.running_var.fill_(float('inf')), "'bn1.running_var' .* not finite"),
    (lambda m: m.register_buffer('phase', torch.zeros(2, dtype=torch.cfloat)), "'phase' .* cannot hold"),
    (lambda m: m.to('meta'), 'on meta'),
    (lambda m: m.register_forward_hook(lambda module, inputs, output: output * 2), 'outputs differ by'),
    (lambda m: m.register_forward_hook(lambda module, inputs, output: (output, output)), 'is a tuple'),
    (lambda m: m.pretrained_cfg.update(architecture='resnet19_mine'), "'resnet19_mine', which timm"),
    (lambda m: m.pretrained_cfg.update(mean=torch.zeros(3)), 'JSON')])
def test_what_an_artifact_could_not_give_back_is_refused(network, change, says):
    model = network()
    change(model)
    with pytest.raises(SbsError, match=says) as error:
        adopted(model)
    assert '\n' not in str(error.value)[:60]


def test_arguments_that_timm_does_not_remember_are_asked_for(network):
    given = network(act_layer='silu')
    given._model_args = {}
    with pytest.raises(TargetError, match=r'outputs differ by .*Pass the arguments'):
        adopted(given)
    assert torch.allclose(outputs(adopted(given, {'act_layer': 'silu'})), outputs(given), atol=1e-5)
    with pytest.raises(TargetError, match='act_layer.*cannot store'):
        adopted(network(act_layer=nn.SiLU))
    with pytest.raises(TargetError, match='disagrees'):
        adopted(given, {'num_classes': 3})


def test_feature_maps_alone_are_no_network():
    with pytest.raises(TargetError, match='features_only'):
        adopted(timm.create_model('resnet8_cifar10', features_only=True))


def test_sizes_are_arguments():
    vit = timm.create_model('vit_tiny_patch16_224', img_size=(32, 48), num_classes=3)
    original = adopted(vit)
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.allclose(original(image), vit.eval()(image), atol=1e-5)
