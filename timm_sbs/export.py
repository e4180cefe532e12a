"""The generated weights as an ordinary checkpoint."""
from pathlib import Path
from typing import Tuple, Union

import safetensors.torch

from timm_sbs.artifact import load_artifact
from timm_sbs.errors import ArtifactError
from timm_sbs.files import replace_files
from timm_sbs.weights import with_own_memory

__all__ = ['export_checkpoint']


def export_checkpoint(folder: Union[str, Path], output: Union[str, Path]) -> Tuple[str, int]:
    """Generate all weights of an artifact and write the base model's complete state dict.

    The licence of the weights, if it is known, is in the file's metadata.

    Args:
        folder: Of the artifact.
        output: A safetensors file, which timm loads with ``checkpoint_path``. It appears complete or not at all.

    Returns:
        Name of the base model, and bytes of the file.

    Raises:
        SbsError: The artifact cannot be read, or the file cannot be written.
    """
    artifact = load_artifact(folder)
    license = artifact.pretrained_cfg.get('license')
    data = safetensors.torch.save(
        with_own_memory(artifact.state_dict()), metadata={'format': 'pt', **({'license': license} if license else {})})
    try:
        replace_files({Path(output): data})
    except OSError as e:
        raise ArtifactError(f"Cannot write '{output}': {e}.") from e
    return artifact.config.base, len(data)
