"""The trainer as a Python function."""
import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.distributed import processes
from timm_sbs.common.errors import ConfigError, TargetError
from timm_sbs.common.progress import messages, silence
from timm_sbs.training.design.given_model import unwrapped
from timm_sbs.training.options.parsing import args_of
from timm_sbs.training.run.caller import undisturbed_caller
from timm_sbs.training.run.train import dry_run, train

__all__ = ['fit', 'describe_fit']

Folders = str | Path | Sequence[str | Path]


def fit(
        model: str | nn.Module,
        pct: float | None = None,
        *,
        bytes: int | str | None = None,
        images: Folders | None = None,
        output: str | Path | None = None,
        quiet: bool = False,
        **flags: Any,
) -> Artifact:
    """Fit a predictor to the weights of a timm model, or round them.

    Args:
        model: A timm model with its trained weights, in any floating-point precision, which stays as it is; or the name
            of one, whose pretrained weights timm then loads. An artifact stores float32.
        pct: Makes a predictor, with parameters of so many per cent of the model's; default: 20.
        bytes: Rounds all weights instead, so that both files of the artifact have this size, such as 64_000 or '1.6M'.
            With ``method='generation'`` it makes a predictor that fits.
        images: Folder or folders of images. Labels are not needed: all images in all subfolders are used. With images
            weights are fitted, or rounded, by second order and by distillation too, without by themselves alone.
        output: Folder of the best artifact and of all else that a run writes, such as checkpoints; default: a temporary
            one.
        quiet: Whether to print nothing.
        **flags: The trainer's flags, with underscores: ``distillation_steps=1000``, ``recipe='imagenet'``,
            ``data_dir='imagenet'``. ``timm-sbs train --help`` lists them.

    Returns:
        The artifact as it was written: of those of the run, that which did best on held-out training images.

    Raises:
        SbsError: Something about the request is wrong.

    Example:
        >>> model = timm.create_model('resnet18', pretrained=True)
        >>> artifact = timm_sbs.fit(model, pct=15)
        >>> artifact.save('out')
        >>> smaller = timm_sbs.fit(model, bytes='1.6M', images='imagenet/train')
    """
    with tempfile.TemporaryDirectory() as folder, silence() if quiet else messages(), undisturbed_caller():
        args, original = _request(model, pct, bytes, images, folder if output is None else output, flags)
        if output is None and processes().num_processes > 1:
            raise ConfigError('Several processes need one folder to write to: say fit(..., output=FOLDER).')
        train(args, original, whole_program=False)
        return load_artifact(args.output)


def describe_fit(
        model: str | nn.Module,
        pct: float | None = None,
        *,
        bytes: int | str | None = None,
        images: Folders | None = None,
        **flags: Any,
) -> str:
    """What :func:`fit` would generate and keep, and how large the artifact would be, as text. It starts nothing.

    Arguments are those of :func:`fit`.

    Example:
        >>> print(describe_fit(timm.create_model('resnet18', pretrained=True), pct=15))
    """
    with tempfile.TemporaryDirectory() as folder, undisturbed_caller():
        return dry_run(*_request(model, pct, bytes, images, folder, flags))


def _request(
        model: str | nn.Module,
        pct: float | None,
        bytes: int | str | None,
        images: Folders | None,
        output: str | Path,
        flags: dict[str, Any],
) -> tuple[argparse.Namespace, nn.Module | None]:
    """The trainer's arguments, and the model to take the weights from."""
    given = {'pct': pct, 'bytes': bytes, 'output': str(output), **flags}
    if flags.get('dry_run'):
        raise ConfigError('fit() trains. For what it would do, call timm_sbs.training.fit.describe_fit().')
    if images is not None:
        folders = images if isinstance(images, (list, tuple)) else [images]
        if not folders or not all(isinstance(folder, (str, Path)) for folder in folders):
            raise ConfigError(f'images is {images!r}, but must be a folder of images, or a list of them.')
        given['unlabelled_dir'] = [str(folder) for folder in folders]
    if isinstance(model, str):
        return args_of({**given, 'model': model}), None
    original = unwrapped(model) if isinstance(model, nn.Module) else None
    description = getattr(original, 'pretrained_cfg', None)
    if original is None or not isinstance(description, dict):
        raise TargetError('The model to fit must be one that timm.create_model has made, or the name of one.')
    if flags.get('initial_checkpoint'):
        raise ConfigError('initial_checkpoint does not go together with a model, which has its weights already.')
    given['model'] = description.get('architecture', '')
    return args_of(given), original
