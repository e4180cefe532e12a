"""Generate a CNN's convolution weights, on load, with a small predictor. ``import timm_sbs`` registers its models."""
from importlib import import_module
from typing import TYPE_CHECKING, Any

from timm_sbs.common.errors import SbsError
from timm_sbs.common.version import __version__
from timm_sbs.models import entries as _entries  # noqa: F401  (registers the models)

if TYPE_CHECKING:  # for editors and type checkers; nothing of it is imported with the package
    from timm_sbs.artifact.artifact import Artifact
    from timm_sbs.artifact.folder import load
    from timm_sbs.training.fit import fit

__all__ = ['Artifact', 'SbsError', '__version__', 'fit', 'load']

# Where a name is; imported when somebody asks for it.
_LAZY = {
    'Artifact': 'timm_sbs.artifact.artifact',
    'fit': 'timm_sbs.training.fit',
    'load': 'timm_sbs.artifact.folder',
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
