"""The generated weights as an ordinary checkpoint."""
from os.path import expanduser
from pathlib import Path

import safetensors.torch

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.files import replace_files

__all__ = ['export_checkpoint']


def export_checkpoint(folder: str | Path, output: str | Path) -> tuple[str, int, str | None]:
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

    Example:
        >>> export_checkpoint('out/resnet18', 'resnet18.safetensors')  # doctest: +SKIP
        ('resnet18', 46807446, 'apache-2.0')
        >>> timm.create_model('resnet18', checkpoint_path='resnet18.safetensors')  # doctest: +SKIP
    """
    artifact, output = load_artifact(folder), Path(expanduser(output))
    if output.suffix != '.safetensors':
        raise ArtifactError(f"'{output}' must end in .safetensors, by which timm knows how to read the file.")
    license = artifact.base.pretrained_cfg.get('license')
    metadata = {'format': 'pt', 'license': license, 'license_text': artifact.license_text}
    weights = {name: tensor.clone() for name, tensor in artifact.state_dict().items()}  # a file has no shared memory
    data = safetensors.torch.save(weights, metadata={key: text for key, text in metadata.items() if text})
    try:
        replace_files({output: data})
    except OSError as e:
        raise ArtifactError(f"Cannot write '{output}': {e}.") from e
    return artifact.base.name, len(data), license
