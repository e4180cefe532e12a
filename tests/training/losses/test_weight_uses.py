"""How networks use their weights: geometry, groups, blocks, and what takes up a constant error."""
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from timm_sbs.predictor.selection import select_weights
from timm_sbs.training.losses.weight_uses import LARGEST_BLOCK, WatchedCalls, find_uses


def uses_of(model, *names, size=(1, 3, 8, 8)):
    return find_uses(model, names, torch.zeros(size))


def test_a_residual_networks_convolutions_are_corrected_by_the_batch_norm_that_follows(small_model):
    names = [spec.name for spec in select_weights(small_model)]
    uses = find_uses(small_model, names, torch.zeros(1, 3, 32, 32))
    assert list(uses) == names
    use = uses['layer2.0.conv1.weight']
    assert (use.groups, use.blocks, use.size, use.positions) == (1, 1, 16 * 9, 16 * 16)
    assert (use.corrector, use.sign) == ('layer2.0.bn1.running_mean', 1.)


def test_own_biases_come_first():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False), nn.ReLU())
    uses = uses_of(model, '0.weight', '2.weight')
    assert (uses['0.weight'].corrector, uses['0.weight'].sign) == ('0.bias', -1.)
    assert uses['2.weight'].corrector is None


def test_groups_and_linear_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8, dilation=2), nn.Flatten(2), nn.Linear(4, 5))
    uses = uses_of(model, '1.weight', '3.weight')
    assert (uses['1.weight'].groups, uses['1.weight'].size, uses['1.weight'].positions) == (8, 9, 4)
    assert (uses['3.weight'].groups, uses['3.weight'].size, uses['3.weight'].positions) == (1, 4, 8)


def test_large_inputs_are_cut_into_blocks_of_channels():
    use = uses_of(nn.Sequential(nn.Conv2d(1024, 2, 3)), '0.weight', size=(1, 1024, 4, 4))['0.weight']
    assert (use.blocks, use.size) == (2, 512 * 9) and use.size <= LARGEST_BLOCK


class Shared(nn.Module):
    """One convolution that is applied twice, one whose outputs are changed in place, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.conv, self.changed, self.unused = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3))
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.other(F.relu_(self.changed(x)))
        return self.norm(self.conv(self.conv(x)[:, :, ::2, ::2]))


def test_a_corrector_belongs_to_one_call_of_one_weight():
    uses = uses_of(Shared(), 'conv.weight', 'changed.weight', 'unused.weight')
    assert list(uses) == ['conv.weight', 'changed.weight']
    assert (uses['conv.weight'].positions, uses['conv.weight'].corrector) == (64 + 16, None)
    assert uses['changed.weight'].corrector is None


def test_standardized_weights_are_not_used_as_they_are():
    model = timm.create_model('test_nfnet').eval()
    names = [spec.name for spec in select_weights(model)]
    standardized = set(names) - set(find_uses(model, names, torch.zeros(1, 3, 96, 96)))
    assert standardized and all('conv' in name for name in standardized)


@pytest.mark.parametrize('padding, expected', [
    ('same', ((1, 1), (1, 1))), ('valid', ((0, 0), (0, 0))), ((2, 0), ((2, 2), (0, 0)))])
def test_calls_are_told_with_their_geometry(padding, expected):
    calls = []
    conv = nn.Conv2d(4, 6, 3, padding=padding, stride=1 if padding == 'same' else 2, bias=False)
    with WatchedCalls({id(conv.weight): 'w'}, 2, lambda name, call: calls.append((name, call))):
        y = conv(torch.zeros(2, 4, 9, 9))
        F.linear(torch.zeros(2, 4), torch.zeros(3, 4))
    (name, call), = calls
    assert name == 'w' and call.outputs is y and call.kernel == (3, 3) and call.positions == y[0, 0].numel()
    assert call.padding == expected
