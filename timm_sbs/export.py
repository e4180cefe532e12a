"""The generated weights as an ordinary checkpoint."""
from pathlib import Path
from typing import Optional, Tuple, Union

import safetensors.torch

from timm_sbs.artifact import load_artifact
from timm_sbs.errors import ArtifactError
from timm_sbs.files import replace_files
from timm_sbs.weights import with_own_memory

__all__ = ['export_checkpoint']


def export_checkpoint(folder: Union[str, Path], output: Union[str, Path]) -> Tuple[str, int, Optional[str]]:
    """Generate all weights of an artifact and write the base model's complete state dict.

    The licence of the weights, if it is known, and the text of a LICENSE beside the artifact are in the file's
    metadata, as 'license' and 'license_text'.

    Args:
        folder: Of the artifact.
        output: A safetensors file, which timm loads with ``checkpoint_path``. It appears complete or not at all.

    Returns:
        Name of the base model, bytes of the file, and the licence, if it is known.

    Raises:
        SbsError: The artifact cannot be read, or the file cannot be written.
    """
    artifact = load_artifact(folder)
    license = artifact.pretrained_cfg.get('license')
    metadata = {'format': 'pt', 'license': license, 'license_text': artifact.license_text}
    data = safetensors.torch.save(
        with_own_memory(artifact.state_dict()), metadata={key: text for key, text in metadata.items() if text})
    try:
        replace_files({Path(output): data})
    except OSError as e:
        raise ArtifactError(f"Cannot write '{output}': {e}.") from e
    return artifact.config.base, len(data), license
