"""Where float64 is computed, moves, and names with a prefix."""
import torch

from timm_sbs.common.tensors import as_float64, float64_device, moved, with_prefix, without_prefix


def test_float64_is_computed_on_the_cpu_for_devices_without_it():
    assert float64_device(torch.device('mps')).type == 'cpu'
    assert float64_device(torch.device('cuda', 1)) == torch.device('cuda', 1)
    assert as_float64(torch.ones(2, dtype=torch.float16)).dtype == torch.float64


def test_prefixes_and_moves():
    tensors = {'a': torch.ones(1, 2, 3, 3), 'b': torch.zeros(1)}
    assert without_prefix('x.', {**with_prefix('x.', tensors), 'y.a': torch.ones(1)}) == tensors
    there = moved(tensors['a'], torch.device('cpu'), torch.channels_last)
    assert there.is_contiguous(memory_format=torch.channels_last) and torch.equal(there, tensors['a'])
