"""Weights of all kinds as tokens, and back."""
import math

import pytest
import torch

from timm_sbs.common.errors import TargetError
from timm_sbs.predictor.tokens import WeightSpec, from_kernels, to_kernels


@pytest.mark.parametrize('shape, token_size, tokens', [
    ((8, 4, 3, 3), 9, 32), ((8, 4, 1, 7), 7, 32), ((4, 1, 31, 31), 31, 124), ((2, 3, 65, 1), 8, 50),
    ((8, 12, 1, 1), 8, 16), ((5, 3), 8, 5), ((4, 2, 3), 3, 8), ((2, 3, 2, 2, 2), 8, 6)])
def test_a_weight_becomes_tokens_and_comes_back(shape, token_size, tokens):
    weight = torch.randn(shape)
    spec = WeightSpec('w', shape)
    assert (spec.token_size, spec.num_kernels, spec.num_weights) == (token_size, tokens, math.prod(shape))
    kernels = to_kernels(weight, spec)
    assert kernels.shape == (tokens, token_size)
    assert torch.equal(from_kernels(kernels, spec), weight)
    assert kernels.count_nonzero() == weight.count_nonzero()  # what is filled up is zero


def test_a_token_is_a_kernel_or_a_row_of_a_large_one_or_successive_channels():
    weight = torch.randn(6, 5, 3, 3)
    assert torch.equal(to_kernels(weight, WeightSpec('w', weight.shape))[9], weight[1, 4].flatten())
    weight = torch.randn(3, 2, 31, 31)
    assert torch.equal(to_kernels(weight, WeightSpec('w', weight.shape))[2 * 31 + 4], weight[1, 0, 4])
    weight = torch.randn(6, 32, 1, 1)
    assert torch.equal(to_kernels(weight, WeightSpec('w', weight.shape))[3], weight[0, 24:, 0, 0])


def test_wrong_shapes_are_named():
    spec = WeightSpec('stage.conv.weight', (4, 3, 3, 3))
    with pytest.raises(TargetError, match=r'stage\.conv\.weight.*\[4, 2, 3, 3\].*\[4, 3, 3, 3\]'):
        to_kernels(torch.zeros(4, 2, 3, 3), spec)
