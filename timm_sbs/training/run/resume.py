"""What must be the same in a run that goes on from a checkpoint."""
import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_sbs.common.cache import content_key
from timm_sbs.common.files import file_sha256

__all__ = ['ORIGINAL', 'folder_name', 'unchanging_settings']

ORIGINAL = 'weights_of_the_original'

# Flags that may differ between a checkpoint and its resumption, because they change no result.
MAY_CHANGE = {
    'output', 'resume', 'checkpointing_steps', 'checkpoints_total_limit', 'report_to', 'push_to_hub', 'hub_model_id',
    'hub_private', 'hub_dataset', 'base_model', 'dry_run', 'config', 'recipe', 'workers', 'image_cache',
    'dataset_download',
}


def folder_name(path: str) -> str:
    """What a user calls a folder or a file, wherever it is: the last part of its path."""
    return os.path.basename(os.path.abspath(path))


def unchanging_settings(
        args: argparse.Namespace,
        mixed_precision: str | None,
        original: nn.Module,
        source_weights: str | None = None,
) -> dict[str, Any]:
    """Settings of a run that decide its results, JSON-ready. Files and folders may have moved: weights and files are
    known by their contents, folders of images by what they are called.

    Args:
        args: The trainer's arguments.
        mixed_precision: In accelerate's words.
        original: The original model.
        source_weights: Checksum of the artifact to start from.
    """
    settings = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
    settings['mixed_precision'] = mixed_precision
    settings[ORIGINAL] = _weights_digest(original)
    if args.start_from:
        settings['start_from'] = f'{folder_name(args.start_from)} ({(source_weights or "")[:16]})'
    settings['unlabelled_dir'] = list(map(folder_name, args.unlabelled_dir))
    if args.data_dir:
        settings['data_dir'] = folder_name(args.data_dir)
    for name in ('class_map', 'initial_checkpoint'):
        if settings[name]:
            settings[name] = f'{folder_name(settings[name])} ({file_sha256(Path(settings[name]))[:16]})'
    return settings


def _weights_digest(model: nn.Module) -> str:
    """A name for the values of a state dict, whatever device they are on."""
    state = model.state_dict()
    values = (tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for tensor in state.values())
    return content_key(part for name, value in zip(state, values) for part in (name, value.numpy().data))[:16]
