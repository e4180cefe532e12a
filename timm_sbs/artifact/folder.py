"""Finding and reading an artifact, with suspicion: shapes are compared with the base model's before any values."""
import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor

from timm_sbs.artifact import hub
from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, Described, digest, read_config, read_license
from timm_sbs.artifact.update import Origin
from timm_sbs.codec.tensor_file import Contents, Slot, from_tensors, slots
from timm_sbs.common.config import ArtifactConfig, UpdateConfig
from timm_sbs.common.entries import ENTRIES, NONCOMMERCIAL
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.files import read_file
from timm_sbs.predictor.base_model import BaseModel, kept_names
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.network import Predictor, check_parameters, num_predictor_parameters
from timm_sbs.predictor.ordering import output_sizes
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['load', 'load_artifact', 'origin_of', 'check_size', 'find_folder', 'shipped_folder']

BASE_NAME = 'base'  # folder beside an update's files in which its base may lie
_HUB, _LOCAL = 'hf-hub:', 'local-dir:'  # timm's words for where a name leads
_HUB_NAME = re.compile(r'[\w.-]+/[\w.-]+@[\w./-]+')  # a branch may move, but the digest is that of its files
_HEADER = 1 << 20, 256  # bytes that the header of model.safetensors may take, and more for each tensor


def load(name: str | Path, base: str | Path | None = None) -> Artifact:
    """Read an artifact.

    Args:
        name: A folder, 'local-dir:FOLDER', 'hf-hub:user/name', 'user/name@revision' on the Hub too, or a name such as
            'sbs_resnet20_cifar10_20pct' of one that was installed with the package.
        base: Of an update: where its base is, in the same words; default: in its folder 'base', in the package, or on
            the Hub.

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
    return load_artifact(find_folder(str(name)), base=None if base is None else find_folder(str(base)))


def find_folder(name: str) -> Path:
    """Folder of an artifact, by a name as :func:`load` takes it or by a file in it; of the Hub, in the local cache.

    Raises:
        ArtifactError: There is none.
    """
    if repository := _on_hub(name):
        return hub.download(repository)
    path = Path(expanduser(name.removeprefix(_LOCAL)))
    if path.is_file():
        path = path.parent
    if path.is_dir():
        return path
    if folder := shipped_folder(name):
        return folder
    raise ArtifactError(f"'{name}' is neither a folder nor the name of an artifact. Named ones: "
                        f"{', '.join(timm.list_models('sbs_*'))}.")


def _on_hub(name: str) -> str | None:
    """The repository that a name leads to, 'user/name' or 'user/name@revision'; None if it leads elsewhere."""
    if name.startswith(_HUB):
        return name.removeprefix(_HUB)
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def shipped_folder(name: str) -> Path | None:
    """Folder of a named artifact, inside this package or the one for non-commercial use; None if nothing has this name.

    Raises:
        ArtifactError: It is for non-commercial use, and its package is not installed.
    """
    entry = ENTRIES.get(name)
    if entry is None:
        return None
    if entry.package != NONCOMMERCIAL:
        return Path(__file__).parent / 'shipped' / name
    if found := importlib.util.find_spec(NONCOMMERCIAL):
        return Path(str(found.origin)).parent / name
    raise ArtifactError(f"The licence of '{name}', {entry.license}, permits no commercial use, so its weights are in a "
                        f'package of their own. If that is fine for you, install it in a checkout of timm_sbs: pip '
                        f'install ./noncommercial')


def load_artifact(
        folder: str | Path, described: Described | None = None, base: Path | None = None) -> Artifact:
    """Read the artifact of a folder, which holds config.json and model.safetensors.

    Args:
        described: What :func:`~timm_sbs.artifact.files.read_config` has read of it, where that was done.
        base: Folder of an update's base, if that is known.

    Raises:
        SbsError: Anything is missing, damaged, newer than this package, or does not fit the base model.
    """
    folder = Path(expanduser(folder))
    with torch.device('cpu'):  # whatever the default device is
        config, network, structure = described or read_config(folder)
        found = _found_origin(folder, config, base)
        _check_size(folder, network, found)
        origin = None
        if found and config.update:
            origin = Origin.of(load_artifact(*found), config.update.base, found[0], config.update.digest, network)
        specs = tuple(specs_from_names(config.generated, network.state, config.base))
        predictor = _structure(config, specs)
        path = folder / WEIGHTS_NAME
        tensors = _read_tensors(path, config, structure, slots(config, specs, predictor, network.state))
        try:
            check_parameters(sum(parameter.numel() for parameter in predictor.parameters()), tensors)
            contents = from_tensors(tensors, config, specs, predictor, network.state)
        except ArtifactError as e:
            raise ArtifactError(f'{path}: {e}') from None
        predictor.load_state_dict(contents.predictor, assign=True)
        predictor.requires_grad_(False).eval()
        return Artifact(
            generator=Generator(config.generator, specs, contents.permutations, contents.frequencies, predictor),
            kept=_completed(contents, network, origin),
            base=network,
            storage=config.storage,
            rounded=contents.rounded,
            steps=contents.steps,
            results=config.results,
            origin=origin and dataclasses.replace(origin, stored=frozenset(contents.kept)),
            license_text=read_license(folder),
        ).from_source(tensors)


def origin_of(name: str, network: BaseModel) -> Origin:
    """An artifact, by a name as :func:`load` takes it, as the base of updates of a network.

    One on the Hub is called by its commit, for branches and tags may move.

    Raises:
        SbsError: There is none, or it cannot be a base.
    """
    folder, repository = find_folder(name), _on_hub(name)
    described = read_config(folder)
    called = f"{repository.partition('@')[0]}@{folder.name}" if repository else folder.resolve().name
    return Origin.of(load_artifact(folder, described), called, folder, described.config.digest, network)


def _found_origin(folder: Path, config: ArtifactConfig, base: Path | None) -> tuple[Path, Described] | None:
    """Folder and description of an update's base, compared with what the update says of it."""
    if not (update := config.update):
        if base is not None:
            raise ArtifactError(f"'{folder}' is no update, so it has no base. Leave it out.")
        return None
    found = base or _folder_of_origin(folder, update)
    described = read_config(found)
    if described.config.update:
        raise ArtifactError(f"The base of '{folder}' in '{found}' is an update itself, but must be a whole artifact.")
    if described.config.digest != update.digest:
        raise ArtifactError(f"'{folder}' is an update of '{update.base}', but '{found}' holds another artifact or "
                            f'another version of it: its digest is not the recorded one.')
    return found, described


def _folder_of_origin(folder: Path, update: UpdateConfig) -> Path:
    """Where the base of an update lies: beside it, in the package, or on the Hub."""
    if (folder / BASE_NAME / CONFIG_NAME).is_file():
        return folder / BASE_NAME
    if found := shipped_folder(update.base):
        return found
    if _HUB_NAME.fullmatch(update.base):
        return hub.download(update.base)
    raise ArtifactError(f"'{folder}' is an update of '{update.base}', which is not here. Copy the base to "
                        f"'{folder / BASE_NAME}', or pass its folder: timm_sbs.load('{folder}', base=FOLDER).")


def _completed(contents: Contents, network: BaseModel, origin: Origin | None) -> dict[str, Tensor]:
    """Stored tensors; of an update, with the base's."""
    if origin is None:
        return contents.kept
    names = kept_names(network.state, contents.rounded)
    if missing := [name for name in names if name not in contents.kept and name not in origin.state]:
        raise ArtifactError(f"'{missing[0]}' is neither in the update nor, in this shape, in its base '{origin.name}'.")
    return {name: contents.kept[name] if name in contents.kept else origin.state[name] for name in names}


def check_size(folder: Path, described: Described) -> None:
    """Raises SbsError if a network is larger than what the tensors of a folder may stand for, or than the memory."""
    _check_size(folder, described.base, _found_origin(folder, described.config, None))


def _check_size(folder: Path, base: BaseModel, origin: tuple[Path, Described] | None) -> None:
    """Raises SbsError if a base model is larger than this machine's memory, or than what the tensors of a folder may
    stand for. To be asked before anything as large as the model is made."""
    size = 0
    for each in (folder, *(origin or ())[:1]):
        try:
            size += (each / WEIGHTS_NAME).stat().st_size
        except OSError:
            raise _incomplete(each) from None
    base.check_size(size)


def _incomplete(folder: Path) -> ArtifactError:
    return ArtifactError(f"'{folder}' is incomplete: {WEIGHTS_NAME} not found. Download or copy the folder again.")


def _structure(config: ArtifactConfig, specs: tuple[WeightSpec, ...]) -> Predictor:
    """The predictor without memory for parameters. Its size is limited by what it generates."""
    shape = config.generator.feature_width, output_sizes(specs, config.ordering), config.predictor
    size = num_predictor_parameters(*shape)
    generated = sum(spec.num_weights for spec in specs)
    if size > generated:
        raise ArtifactError(
            f"{CONFIG_NAME} describes a predictor of {size:,} parameters, more than the {generated:,} weights that it "
            f"generates for '{config.base}', so it is not one that timm_sbs makes.")
    with torch.device('meta'):
        return Predictor(*shape)


def _read_tensors(
        path: Path, config: ArtifactConfig, structure: bytes, expected: Mapping[str, Slot]) -> dict[str, Tensor]:
    """The tensors of a file, whose header is compared with what is expected before anything else of it is looked at.
    The file is read once: what is checked is what is used."""
    at_once, each = _HEADER
    data = read_file(path, sum(slot.nbytes for slot in expected.values()) + at_once + each * len(expected))
    if data is None:
        raise _incomplete(path.parent)
    try:
        found = {name: Slot(tuple(entry['shape']), entry['dtype']) for name, entry in deserialize(data)}
        _check_slots(path, config, expected, found)
        if digest(structure, data) != config.digest:
            raise ArtifactError(
                f'{path} and {CONFIG_NAME} do not belong together, or one is damaged: their digest is not the recorded '
                f'one. Download or copy the folder again.')
        tensors = safetensors.torch.load(data)
        return {name: tensors[name] for name in expected}  # in the order of the base model
    except SafetensorError as e:
        raise ArtifactError(
            f'{path} cannot be read: {e}. It may be truncated; download or copy the folder again.') from None


def _check_slots(path: Path, config: ArtifactConfig, expected: Mapping[str, Slot], found: Mapping[str, Slot]) -> None:
    for name, slot in expected.items():
        if name not in found:
            raise ArtifactError(f"{path} lacks tensor '{name}', which '{config.base}' needs.")
        if not slot.holds(found[name]):
            raise ArtifactError(
                f"Tensor '{name}' in {path} is {found[name]}, but {slot} follows from {CONFIG_NAME} and "
                f"'{config.base}'.")
    if surplus := sorted(set(found) - set(expected)):
        raise ArtifactError(f"{path} holds tensor '{surplus[0]}', which no artifact of '{config.base}' has.")
