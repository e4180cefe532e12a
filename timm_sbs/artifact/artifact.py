"""The artifact: a generator, the tensors stored beside it, and timm's description of the original."""
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from timm_sbs.artifact.build import build_around, check_args
from timm_sbs.artifact.card import artifact_card
from timm_sbs.artifact.describe import description
from timm_sbs.artifact.exports import export_checkpoint, export_onnx, onnx_model, repository_files
from timm_sbs.artifact.files import CONFIG_NAME, LICENSE_NAME, WEIGHTS_NAME, config_text, write_files
from timm_sbs.artifact.hub import require_login, upload
from timm_sbs.artifact.ledger import full_ledger, measured
from timm_sbs.artifact.transformers_js import around_model
from timm_sbs.artifact.update import Origin, split, totals
from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import predictor_codes, stored_predictor, stored_rounded
from timm_sbs.codec.tensor_file import Contents, to_tensors
from timm_sbs.common.config import OTHERS, ArtifactConfig, QuantizationConfig, StorageConfig
from timm_sbs.common.tensors import copied, without_prefix
from timm_sbs.predictor.base_model import BaseModel, first_names, is_counter, kept_names
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.network import check_parameters
from timm_sbs.predictor.selection import rounded_names

if TYPE_CHECKING:
    from timm_sbs.onnx.check import Checked

__all__ = ['Artifact']


@dataclass(frozen=True, eq=False, repr=False)
class Artifact:
    """All that is needed to create a model with generated or rounded weights.

    It does not change: ``dataclasses.replace`` and the methods below make another.

    Attributes:
        generator: Generates the convolution weights.
        kept: Stored tensors: the state dict entries of the base model that are neither generated nor rounded.
        base: The base model, and timm's description of the original weights.
        storage: How the numbers are stored.
        rounded: Weights that a quantized artifact stores as integers of few bits, and one of floats as they are; of an
            update, what they have more than the base's.
        steps: Codes of the step sizes of these ('rounded.' and a name), and of those predictor weights ('predictor.')
            whose step sizes do not follow from their bits: they were fixed before training, or read from a file.
        results: Measured figures, and how they were measured: a JSON-ready dict.
        origin: Of an update: the base, whose weights it has where neither ``rounded`` nor ``kept`` say otherwise.
        license_text: Of the LICENSE beside the artifact, which goes wherever the artifact or a copy of it goes.
        source: Of an artifact whose numbers are rounded already: the tensors of the file that it was read from, or the
            artifact that was rounded. It is written as that one is. ``dataclasses.replace`` does not copy it.

    Example:
        >>> import timm_sbs
        >>> artifact = timm_sbs.load('sbs_resnet20_cifar10_20pct')
        >>> artifact.save('copy')
        >>> artifact.create_model(in_chans=1).conv1.weight.shape
        torch.Size([16, 1, 3, 3])
    """
    generator: Generator
    kept: dict[str, Tensor]
    base: BaseModel
    storage: StorageConfig = StorageConfig()
    rounded: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None
    license_text: str | None = None
    source: 'dict[str, Tensor] | Artifact | None' = field(default=None, init=False)

    def __repr__(self) -> str:
        """In one line, for notebooks."""
        generated = f'{len(self.generator.names)} weights generated from {self.generator.num_parameters:,} parameters'
        parts = {generated: self.generator.names, f'{len(self.rounded)} weights rounded': self.rounded,
                 f'{len(self.kept)} tensors stored': self.kept}
        return f"Artifact('{self.base.name}': {', '.join(part for part, found in parts.items() if found)})"

    @property
    def config(self) -> ArtifactConfig:
        """The sbs block of config.json, but for the digest and the ledger of a written file."""
        generator = self.generator
        others = rounded_names([OTHERS], generator.names, self.base.state)
        rounded = self.rounded if self.storage.quantization else ()
        return ArtifactConfig(
            base=self.base.name,
            generated=generator.names,
            rounded=(OTHERS,) if rounded and set(rounded) == set(others) else tuple(rounded),
            ordering=generator.config.ordering,
            encoding=generator.config.encoding,
            predictor=generator.config.predictor,
            storage_dtype=self.storage.dtype,
            quantization=self.storage.quantization,
            update=self.origin.config(kept_names(self.base.state, self.rounded)) if self.origin else None,
            results=self.results,
        )

    def quantized(self, quantization: QuantizationConfig | None) -> 'Artifact':
        """The same artifact, to be rounded in this way; with None, a predictor to be stored as floats. Rounded weights
        keep their step sizes."""
        steps = {name: codes for name, codes in self.steps.items() if name.startswith('rounded.')}
        return dataclasses.replace(
            self, steps=steps, storage=dataclasses.replace(self.storage, quantization=quantization))

    def with_fixed_steps(self) -> 'Artifact':
        """The same artifact, whose predictor's weights keep the step sizes of this moment when they change."""
        if self.storage.quantization is None:
            return self
        codes = predictor_codes(
            self.generator.predictor.state_dict(), self.storage.quantization, without_prefix('predictor.', self.steps))
        fixed = {f'predictor.{name}': code.cpu() for name, (code, _) in codes.items() if name.endswith('.weight')}
        return dataclasses.replace(self, steps={**self.steps, **fixed})

    def with_kept(self, model: nn.Module) -> 'Artifact':
        """The same artifact with copies of a model's tensors that are neither generated nor rounded."""
        state, names = model.state_dict(), kept_names(self.base.state, (*self.generator.names, *self.rounded))
        return dataclasses.replace(self, kept=copied({name: state[name] for name in names}))

    def with_results(self, results: Mapping[str, Any]) -> 'Artifact':
        """The same artifact with other results."""
        return dataclasses.replace(self, results=dict(results)).from_source(self.source)

    def from_source(self, source: 'dict[str, Tensor] | Artifact | None') -> 'Artifact':
        """This artifact, which is told its source."""
        object.__setattr__(self, 'source', source)
        return self

    def as_stored(self) -> 'Artifact':
        """The artifact as a reader of the written one will have it: rounded as its storage says."""
        if self.source is not None:
            return self
        predictor = stored_predictor(
            self.generator.predictor, self.storage, without_prefix('predictor.', self.steps))
        kept, others = split(self.kept, self.origin)
        kept = stored_kept(kept, self.storage, self.base.norm_eps if self.storage.quantization else {})
        return dataclasses.replace(
            self, generator=self.generator.with_predictor(predictor), kept={**others, **kept},
            rounded=stored_rounded(self.rounded, without_prefix('rounded.', self.steps), self.storage),
        ).from_source(self)

    def stored_weights(self) -> dict[str, Tensor]:
        """Generated and rounded weights by name, float32, as a reader of the written artifact will have them."""
        stored = self.as_stored()
        return {**stored.generator(), **totals(stored.rounded, self.origin)}

    def state_dict(self) -> dict[str, Tensor]:
        """Generate the complete state dict of the base model: float32 weights, stored tensors, BatchNorm's counters at
        zero. Changing it does not change the artifact.

        It is that of the artifact as it is; ``as_stored().state_dict()`` is that of the written one.

        Example:
            >>> state = timm_sbs.load('sbs_resnet20_cifar10_20pct').state_dict()
            >>> len(state), state['linear.weight'].shape
            (116, torch.Size([10, 64]))
        """
        tensors = {**totals(self.rounded, self.origin), **copied(self.kept), **self.generator()}
        counter = torch.zeros((), dtype=torch.long, device='cpu')
        tensors |= {name: counter.clone() for name in self.base.state if is_counter(name)}
        return {name: tensors[first] for name, first in first_names(self.base.state).items()}

    def create_model(self, **kwargs: Any) -> nn.Module:
        """The base model with generated weights, as timm.create_model makes it from the written artifact.

        Args:
            **kwargs: As timm.create_model takes them: num_classes, in_chans, features_only and so on. timm adapts the
                stem and the classifier.

        Raises:
            ConfigError: An argument is not the caller's to give, such as ``pretrained``.

        Example:
            >>> model = timm_sbs.load('sbs_resnet20_cifar10_20pct').create_model(num_classes=7)
            >>> model(torch.zeros(1, 3, 32, 32)).shape
            torch.Size([1, 7])
        """
        check_args(self.base.name, kwargs)
        return build_around(self.base.name, self.as_stored().state_dict(), self.base.pretrained_cfg, {},
                            base_args=self.base.args, **kwargs)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of model.safetensors. What cannot be stored is refused, see :meth:`save`."""
        if self.source is not None:
            return self.source.tensors() if isinstance(self.source, Artifact) else self.source
        generator = self.generator
        kept, rounded = ({name: tensors[name] for name in self.base.state if name in tensors}  # a reader's order
                         for tensors in (split(self.kept, self.origin)[0], self.rounded))
        contents = Contents(
            generator.predictor.state_dict(), generator.frequencies, generator.permutations, kept, rounded, self.steps,
            self.base.norm_eps if self.storage.quantization else {})
        return to_tensors(contents, self.config, generator.specs)

    def files(self, onnx_model: bytes | None = None) -> tuple[ArtifactConfig, dict[str, bytes]]:
        """Configuration, with the size ledger, and contents of the files by their names. With an ONNX model, these are
        the files of a repository from which transformers.js runs it."""
        tensors = self.tensors()
        data = safetensors.torch.save(tensors)
        self.base.check_size(len(data) + (self.origin.nbytes if self.origin else 0))
        check_parameters(self.generator.num_parameters, tensors)
        config = dataclasses.replace(
            self.config, ledger=measured(tensors, len(data), self.generator.num_parameters, self.base.state))
        keys, more = around_model(onnx_model, self.base, self.results) if onnx_model else ({}, {})
        contents = {WEIGHTS_NAME: data, CONFIG_NAME: config_text(config, self.base, data, keys).encode(), **more}
        if self.license_text:
            contents[LICENSE_NAME] = self.license_text.encode()
        return config, contents

    def ledger(self, onnx_model: bytes | None = None) -> dict[str, int]:
        """Bytes of both files of :meth:`files`, part by part: see :func:`timm_sbs.artifact.ledger.full_ledger`."""
        config, contents = self.files(onnx_model)
        return full_ledger(config.ledger, len(contents[CONFIG_NAME]))

    def describe(self) -> str:
        """What it is and where its bytes go, as text: what ``timm-sbs info`` shows."""
        return description(self.config, self.base.pretrained_cfg, self.ledger())

    def card(self, repo_id: str, onnx_model: bytes | None = None) -> str:
        """The model card of a repository 'user/name', which may have an ONNX model. All figures are the artifact's."""
        return artifact_card(
            repo_id, self.config, self.base.pretrained_cfg, self.ledger(onnx_model), self.license_text is not None,
            len(onnx_model or b''))

    def save(self, folder: str | Path) -> None:
        """Write the artifact in place of the one that may be in a folder. Other files in it stay.

        Raises:
            SbsError: A tensor is not finite, an ordering is not a permutation, or the folder cannot be written.
        """
        write_files(folder, self.files()[1])

    def export(self, file: str | Path) -> None:
        """Write the base model's complete state dict, which timm loads with ``checkpoint_path``, without this package.

        The file's metadata have the licence of the weights, if it is known, and the text of the artifact's LICENSE, as
        'license' and 'license_text'.

        Raises:
            ArtifactError: The name does not end in .safetensors, or the file cannot be written.

        Example:
            >>> artifact.export('resnet18.safetensors')  # doctest: +SKIP
            >>> timm.create_model('resnet18', checkpoint_path='resnet18.safetensors')  # doctest: +SKIP
        """
        export_checkpoint(self, file)

    def onnx_model(self, preprocessing: bool = False, plain: bool = False) -> bytes:
        """An ONNX model whose weights are computed from what is stored, when a runtime loads it: see
        :func:`timm_sbs.artifact.exports.onnx_model`."""
        return onnx_model(self, preprocessing, plain)[0]

    def export_onnx(self, file: str | Path, preprocessing: bool = False, plain: bool = False) -> 'Checked | None':
        """Write :meth:`onnx_model`.

        Returns:
            What ONNX Runtime made of it; None if it is not installed.

        Raises:
            SbsError: The name does not end in .onnx, the file cannot be written, or as of :meth:`onnx_model`.

        Example:
            >>> artifact.export_onnx('resnet18.onnx')  # doctest: +SKIP
        """
        return export_onnx(self, file, preprocessing, plain)

    def push_to_hub(
            self,
            repo_id: str,
            private: bool = False,
            revision: str | None = None,
            tag: str | None = None,
            token: str | None = None,
            card: str | None = None,
            onnx: bool = False,
    ) -> str:
        """Publish the artifact on the Hugging Face Hub in one commit.

        Files that the repository has already are not uploaded again, so that a push that broke off goes on when it is
        repeated, and one without changes makes no commit. A LICENSE that the artifact does not have is deleted there,
        and so are the files of ``onnx`` where it is not given.

        Args:
            repo_id: 'user/name' or 'organisation/name'; created where there is none.
            private: Whether it is created as a private repository.
            revision: Branch to commit to, created where there is none; default: main.
            tag: New tag of the commit, so that 'user/name@TAG' always is this one. A tag is never moved.
            token: Of a user who may write there; default: that of the login, or HF_TOKEN.
            card: Text of the repository's README.md; default: :meth:`card`.
            onnx: Add :meth:`onnx_model` as onnx/model.onnx, and what transformers.js needs to run it from there.

        Returns:
            Address of the commit, or of the last one where nothing has changed.

        Raises:
            SbsError: The Hub refuses or cannot be reached, or it has the tag already, for another commit; with ``onnx``
                also as of :meth:`onnx_model`, and where transformers.js cannot prepare images for the network.

        Example:
            >>> artifact.push_to_hub('user/resnet18-sbs', tag='v1')  # doctest: +SKIP
            'https://huggingface.co/user/resnet18-sbs/commit/...'
            >>> model = timm.create_model('hf-hub:user/resnet18-sbs@v1', pretrained=True)  # doctest: +SKIP
        """
        require_login(token)  # before an ONNX model is made
        return upload(repository_files(self, repo_id, card, onnx), repo_id, private, revision, tag, token)
