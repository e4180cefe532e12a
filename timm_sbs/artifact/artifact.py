"""The artifact: a generator, the kept tensors beside it, and timm's description of the original."""
import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from timm_sbs.artifact.build import build_around
from timm_sbs.artifact.stored import Stored
from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import (
    predictor_codes,
    stored_predictor,
    stored_rounded,
)
from timm_sbs.codec.tensor_file import Contents
from timm_sbs.common.config import OTHERS, POINTWISE_SIZE, ArtifactConfig, QuantizationConfig, StorageConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.prefixes import without_prefix
from timm_sbs.common.results import Results
from timm_sbs.predictor.base_model import BaseModel, first_names, is_counter, kept_names
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.selection import rounded_names

__all__ = ['Artifact']

# Arguments that the artifact itself gives when a model is built.
_OWN_ARGS = ('pretrained', 'pretrained_cfg', 'model_name', 'base', 'state_dict', 'cfg', 'sources')


@dataclass(frozen=True, eq=False, repr=False)
class Artifact:
    """All that is needed to create a model with generated weights.

    Attributes:
        generator: Generates the convolution weights.
        kept: The state dict entries of the base model that are neither generated nor rounded.
        base: The base model, and timm's description of the original weights.
        storage: How the numbers are stored.
        rounded: Weights that are stored as integers of few bits.
        steps: Codes of the steps of these ('rounded.' and a name), and of those predictor weights ('predictor.') whose
            steps do not follow from their bits: they were fixed before training, or read from a file.
        results: Measured figures, and how they were measured.
        license_text: Of the LICENSE beside the artifact, which goes wherever the artifact or a copy of it goes.
        stored: The file that it was read from, if it was.

    Example:
        >>> import timm_sbs
        >>> artifact = timm_sbs.load('sbs_resnet20_cifar10_42pct')
        >>> artifact.save('copy').base
        'resnet20_cifar10'
        >>> artifact.create_model(in_chans=1).conv1.weight.shape
        torch.Size([16, 1, 3, 3])
    """
    generator: Generator
    kept: dict[str, Tensor]
    base: BaseModel
    storage: StorageConfig = StorageConfig()
    rounded: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)
    results: Results = field(default_factory=Results)
    license_text: str | None = None
    stored: Stored | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'results', Results.of(self.results).shortened())

    def __repr__(self) -> str:
        """In one line, for notebooks."""
        generated, rounded = self.generator.names, self.rounded
        return (f"Artifact('{self.base.name}': {len(generated)} weights generated from "
                f'{self.generator.num_parameters:,} parameters, {len(rounded)} rounded, {len(self.kept)} tensors kept)')

    @property
    def config(self) -> ArtifactConfig:
        """What config.json says, but for the checksum and the ledger of a written file."""
        generator = self.generator
        others = rounded_names([OTHERS], generator.names, self.base.state)
        return ArtifactConfig(
            base=self.base.name,
            generated=generator.names,
            rounded=(OTHERS,) if self.rounded and set(self.rounded) == set(others) else tuple(self.rounded),
            base_args=self.base.args,
            ordering=generator.config.ordering,
            encoding=generator.config.encoding,
            predictor=generator.config.predictor,
            pointwise_size=generator.specs[0].pointwise_size if generator.specs else POINTWISE_SIZE,
            storage_dtype=self.storage.dtype,
            quantization=self.storage.quantization,
            results=self.results,
        )

    def quantized(self, quantization: QuantizationConfig | None) -> 'Artifact':
        """The same artifact, to be rounded in this way; with None, to be stored as floats. Rounded weights keep their
        steps."""
        steps = {name: codes for name, codes in self.steps.items() if name.startswith('rounded.')}
        return dataclasses.replace(
            self, steps=steps, storage=dataclasses.replace(self.storage, quantization=quantization))

    def with_fixed_steps(self) -> 'Artifact':
        """The same artifact, whose predictor's weights keep the steps of this moment when they change."""
        if self.storage.quantization is None:
            return self
        codes = predictor_codes(
            self.generator.predictor.state_dict(), self.storage.quantization, without_prefix('predictor.', self.steps))
        fixed = {f'predictor.{name}': code.cpu() for name, (code, _) in codes.items() if name.endswith('.weight')}
        return dataclasses.replace(self, steps={**self.steps, **fixed})

    def with_kept(self, model: nn.Module) -> 'Artifact':
        """The same artifact with copies of a model's kept tensors: changing the model later does not change it."""
        state = model.state_dict()
        names = kept_names(self.base.state, (*self.generator.names, *self.rounded))
        return dataclasses.replace(self, kept={name: state[name].detach().clone() for name in names})

    def with_results(self, results: Mapping[str, Any]) -> 'Artifact':
        """The same artifact with other results: :class:`~timm_sbs.common.results.Results`, or a mapping of them.

        Raises:
            ConfigError: One is of the wrong type or out of range.
        """
        return dataclasses.replace(self, results=Results.of(results))

    @property
    def contents(self) -> Contents:
        """What its file holds."""
        generator = self.generator
        return Contents(generator.predictor.state_dict(), generator.frequencies, generator.permutations, self.kept,
                        self.rounded, self.steps, self.base.norm_eps if self.storage.quantization else {})

    @property
    def file_tensors(self) -> dict[str, Tensor] | None:
        """Tensors of the file that the artifact was read from, or None if it has changed since, or was not read."""
        if self.stored is None or not self.stored.holds(self.contents, self.storage):
            return None
        return self.stored.tensors

    def as_stored(self) -> 'Artifact':
        """The artifact as a reader of the written one will have it: rounded as its storage says."""
        if self.file_tensors is not None:
            return self
        predictor = stored_predictor(
            self.generator.predictor, self.storage, without_prefix('predictor.', self.steps))
        return dataclasses.replace(
            self, generator=self.generator.with_predictor(predictor),
            kept=stored_kept(self.kept, self.storage, self.base.norm_eps if self.storage.quantization else {}),
            rounded=stored_rounded(self.rounded, without_prefix('rounded.', self.steps), self.storage))

    def weights(self) -> dict[str, Tensor]:
        """Generated and rounded weights by name, float32, with memory of their own."""
        return {**self.generator(), **{name: tensor.detach().clone() for name, tensor in self.rounded.items()}}

    def stored_weights(self) -> dict[str, Tensor]:
        """Generated and rounded weights as a reader of the written artifact will have them."""
        return self.as_stored().weights()

    def create_model(self, **kwargs: Any) -> nn.Module:
        """The base model with generated weights, as timm.create_model makes it from the written artifact.

        Args:
            **kwargs: As timm.create_model takes them: num_classes, in_chans, features_only and so on. timm adapts the
                stem and the classifier.

        Raises:
            ConfigError: An argument is not the caller's to give, such as ``pretrained``.

        Example:
            >>> model = timm_sbs.load('sbs_resnet20_cifar10_42pct').create_model(num_classes=7)
            >>> model(torch.zeros(1, 3, 32, 32)).shape
            torch.Size([1, 7])
        """
        if given := [name for name in _OWN_ARGS if name in kwargs]:
            raise ConfigError(
                f"create_model of an artifact takes no '{given[0]}': its base model is '{self.base.name}', and the "
                f'weights are always generated.')
        if self.base.args:
            kwargs = {**self.base.args, **kwargs, 'pretrained_model_args': self.base.args}
        return build_around(
            self.base.name, self.as_stored().state_dict(), self.base.pretrained_cfg, {}, **kwargs)

    def save(self, folder: str | Path) -> ArtifactConfig:
        """Write the artifact: see :func:`timm_sbs.artifact.folder.save_artifact`."""
        from timm_sbs.artifact.folder import save_artifact  # which makes artifacts

        return save_artifact(folder, self)

    def push_to_hub(
            self,
            repo_id: str,
            private: bool = False,
            revision: str | None = None,
            tag: str | None = None,
            token: str | None = None,
    ) -> str:
        """Publish the artifact: see :func:`timm_sbs.artifact.push.push_to_hub`. It needs no folder of its own.

        Returns:
            Address of the commit.

        Raises:
            SbsError: The Hub refuses or cannot be reached.

        Example:
            >>> artifact.push_to_hub('user/name', tag='v1')  # doctest: +SKIP
            'https://huggingface.co/user/name/commit/...'
        """
        from timm_sbs.artifact.push import push_to_hub

        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            return push_to_hub(folder, repo_id, private, revision, tag, token)

    def state_dict(self) -> dict[str, Tensor]:
        """Generate the complete state dict of the base model: float32 weights, kept tensors, zeroed step counters. Its
        tensors have memory of their own.

        It is that of the artifact as it is; ``as_stored().state_dict()`` is that of the written one.

        Example:
            >>> state = timm_sbs.load('sbs_resnet20_cifar10_42pct').state_dict()
            >>> len(state), state['linear.weight'].shape
            (116, torch.Size([10, 64]))
        """
        tensors = {**{name: tensor.clone() for name, tensor in self.kept.items()}, **self.weights()}
        for name in self.base.state:
            if is_counter(name):
                tensors[name] = torch.zeros((), dtype=torch.long, device='cpu')
        return {name: tensors[first] for name, first in first_names(self.base.state).items()}
