"""What must be the same in a run that goes on from a checkpoint."""
import argparse
import os
from pathlib import Path
from typing import Any, Dict, Optional

from timm_sbs.files import file_sha256

__all__ = ['folder_name', 'unchanging_settings']

# Flags that may differ between a checkpoint and its resumption, because they change no result.
MAY_CHANGE = {
    'output', 'resume', 'checkpointing_steps', 'checkpoints_total_limit', 'report_to', 'push_to_hub', 'hub_model_id',
    'hub_private', 'dry_run', 'config', 'recipe', 'workers', 'dataset_download',
}


def folder_name(path: str) -> str:
    """What a user calls a folder or a file, wherever it is: the last part of its path."""
    return os.path.basename(os.path.abspath(path))


def unchanging_settings(args: argparse.Namespace, mixed_precision: Optional[str]) -> Dict[str, Any]:
    """Settings of a run that decide its results, JSON-ready. Files and folders may have moved: files are known by their
    contents, folders of images by what they are called."""
    settings = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
    settings['mixed_precision'] = mixed_precision
    settings['unlabelled_dir'] = list(map(folder_name, args.unlabelled_dir))
    if args.data_dir:
        settings['data_dir'] = folder_name(args.data_dir)
    for name in ('class_map', 'initial_checkpoint'):
        if settings[name]:
            settings[name] = f'{folder_name(settings[name])} ({file_sha256(Path(settings[name]))[:16]})'
    return settings
