"""Memory that is kept while a network trains."""
import ctypes
import resource

import pytest
import torch

from timm_sbs.common.memory import freed_memory_kept

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs glibc')
PAGES = 2**26 // resource.getpagesize()  # of 64 MB


def pages_given():
    """By the system for a tensor of 64 MB, after one of 128 MB was freed."""
    torch.ones(2**27, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_used_again_within_the_block_alone():
    for _ in range(2):
        with freed_memory_kept():
            assert pages_given() < PAGES / 10
        assert pages_given() > PAGES / 2
