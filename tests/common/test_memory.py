"""Memory that is kept while a network trains."""
import ctypes
import subprocess
import sys

import pytest

# In a process of its own, whose memory has no gaps yet: pages that the system gives for a tensor of 64 MB, after one of
# 128 MB was freed, the fewest of three times; before the block and within it.
CODE = '''
import resource, torch
from timm_sbs.common.memory import freed_memory_kept

def pages_given():
    torch.ones(2**27, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26, dtype=torch.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**26

print(min(pages_given() for _ in range(3)))
with freed_memory_kept():
    print(min(pages_given() for _ in range(3)))
'''


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs glibc')
def test_freed_memory_is_used_again_within_the_block():
    told = subprocess.run([sys.executable, '-c', CODE], capture_output=True, text=True, check=True).stdout.split()
    before, within = map(float, told)
    assert within < 0.1 and before > 0.5
