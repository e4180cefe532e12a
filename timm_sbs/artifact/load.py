"""An artifact by whatever name a user has for it."""
from pathlib import Path

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.find import find_folder
from timm_sbs.artifact.folder import load_artifact

__all__ = ['load']


def load(name: str | Path) -> Artifact:
    """Read an artifact.

    Args:
        name: A folder, 'local-dir:FOLDER', 'hf-hub:user/name', 'hf-hub:user/name@revision', or a name such as
            'sbs_resnet20_cifar10_20pct' of one that ships inside the package.

    Raises:
        SbsError: There is none, it is damaged, or the Hub cannot be reached.

    Example:
        >>> import timm_sbs
        >>> artifact = timm_sbs.load('sbs_resnet20_cifar10_20pct')
        >>> artifact.base.name, artifact.results['top1']
        ('resnet20_cifar10', 91.58)
        >>> artifact.state_dict()['layer1.0.conv1.weight'].shape
        torch.Size([16, 16, 3, 3])
        >>> artifact.create_model(num_classes=7).num_classes
        7
    """
    return load_artifact(find_folder(str(name)))
