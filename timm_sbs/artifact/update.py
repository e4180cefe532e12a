"""An update: an artifact that holds what differs from another one, its base, which whoever loads it has already."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from timm_sbs.artifact.files import WEIGHTS_NAME
from timm_sbs.common.config import UpdateConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.tensors import copied
from timm_sbs.predictor.base_model import BaseModel

if TYPE_CHECKING:
    from timm_sbs.artifact.artifact import Artifact

__all__ = ['Origin', 'split', 'totals']


@dataclass(frozen=True, eq=False)
class Origin:
    """The base of an update.

    Attributes:
        name: As users load it: of an artifact in the package, or user/name@revision on the Hub; else its folder's.
        digest: Of its files.
        nbytes: Of its model.safetensors.
        state: Its tensors by name: those that the network of the update has too, in the same shape.
        license, license_text: Its own, which hold for updates too where no other is named.
        stored: Names of tensors that the update stores instead, beside rounded weights.
    """
    name: str
    digest: str
    nbytes: int
    state: dict[str, Tensor]
    license: str | None = None
    license_text: str | None = None
    stored: frozenset[str] = frozenset()

    @classmethod
    def of(cls, artifact: 'Artifact', name: str, folder: Path, digest: str, network: BaseModel) -> 'Origin':
        """The base as another network sees it: a new classifier has nothing to differ from.

        Raises:
            ArtifactError: It is an update itself, or of another architecture.
        """
        if artifact.origin:
            raise ArtifactError(f"'{name}' is an update of '{artifact.origin.name}', so it is no base. Refer to the "
                                f'latter: an update of an update holds all that differs from the first base.')
        if (artifact.base.name, artifact.base.args) != (network.name, network.args):
            raise ArtifactError(f"'{name}' is a '{artifact.base.name}' with arguments {artifact.base.args}, and cannot "
                                f"be the base of a '{network.name}' with {network.args}.")
        state = {key: tensor for key, tensor in artifact.as_stored().state_dict().items()
                 if key in network.state and network.state[key].shape == tensor.shape}
        return cls(name, digest, (folder / WEIGHTS_NAME).stat().st_size, state,
                   artifact.base.pretrained_cfg.get('license'), artifact.license_text)

    def has(self, name: str, tensor: Tensor) -> bool:
        """Whether the base has this tensor, with these values."""
        return name in self.state and torch.equal(tensor.detach().cpu(), self.state[name])

    def config(self, names: Sequence[str]) -> UpdateConfig:
        """What config.json says of it, given the names of all tensors that are not rounded."""
        return UpdateConfig(self.name, self.digest, UpdateConfig.flags(names, self.stored))

    def difference(self, name: str, tensor: Tensor) -> Tensor:
        """A weight less that of the base; itself, where the base has none of its shape."""
        return tensor - self.state[name].to(tensor) if name in self.state else tensor


def split(kept: Mapping[str, Tensor], origin: Origin | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that a file stores, and those that an update takes from its base."""
    if origin is None:
        return dict(kept), {}
    return ({name: tensor for name, tensor in kept.items() if name in origin.stored},
            {name: origin.state[name] for name in kept if name not in origin.stored})


def totals(rounded: Mapping[str, Tensor], origin: Origin | None) -> dict[str, Tensor]:
    """Copies of rounded weights; of an update, of their sums with the base's."""
    base = origin.state if origin else {}
    return {name: tensor + base[name].to(tensor) if name in base else tensor
            for name, tensor in copied(rounded).items()}
