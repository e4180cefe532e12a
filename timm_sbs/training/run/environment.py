"""Versions and hardware, as results name them."""
import platform
from typing import Any

import timm
import torch

from timm_sbs.common.cores import local_processes
from timm_sbs.common.version import __version__

__all__ = ['environment']


def environment(device: torch.device = torch.device('cpu'), num_processes: int = 1) -> dict[str, Any]:
    """Versions and hardware of this run, JSON-ready."""
    if device.type == 'cuda':
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f'{torch.get_num_threads()} {device.type.upper()} threads, {platform.machine()}'
    if num_processes > 1:
        shared = device.type == 'cuda' and torch.cuda.device_count() == 1 and local_processes() == num_processes
        hardware = f"{num_processes} processes{' on one' if shared else ', each with'} {hardware}"
    return {
        'versions': {'timm_sbs': __version__, 'timm': timm.__version__, 'torch': torch.__version__},
        'hardware': hardware,
    }
