"""Pictures of an artifact and of the run that made it."""
import csv
from pathlib import Path

import torch
import yaml
from timm.models import is_model_pretrained
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.files import CONFIG_NAME, ArtifactFiles
from timm_sbs.artifact.folder import load_artifact, written_ledger
from timm_sbs.artifact.original import load_original
from timm_sbs.common.errors import SbsError
from timm_sbs.plots.style import Figure
from timm_sbs.predictor.base_model import canonical_args
from timm_sbs.predictor.generator import relative_error
from timm_sbs.predictor.ordering import kernel_at_place
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.predictor.tokens import to_kernels

__all__ = ['draw_ledger', 'draw_kernels', 'draw_curves']

LONGEST_PATH = 512  # kernels that a picture shows


def draw_ledger(source: Path, **_: object) -> Figure:
    """Where the bytes of both files are."""
    files = ArtifactFiles.of(source)
    config, _ = files.parsed()
    sizes = written_ledger(config)
    parts = {**sizes.parts, CONFIG_NAME: len(files.config)}
    total = sum(parts.values())
    figure = Figure(figsize=(7, 2.2))
    axis, start = figure.add_subplot(), 0
    for part, size in parts.items():
        axis.barh([0], [size / 1000], left=start / 1000, height=0.6, label=f'{part} {size / 1000:,.1f} kB')
        start += size
    axis.set_yticks([])
    axis.spines['left'].set_visible(False)
    axis.set_xlabel('kB')
    axis.set_title(f"{config.base}: {total / 1000:,.1f} kB, "
                   f"{sizes.original / total:.1f} times smaller than float32", fontsize=10)
    figure.legend(ncols=3, frameon=False, loc='outside lower center', fontsize=8)
    return figure


def _original_weight(artifact: Artifact, name: str, source: Path, checkpoint: str | Path | None) -> Tensor:
    """Of a checkpoint that is given, else of what the run in the same folder began with, else of timm's weights."""
    base, run = artifact.base, source / 'args.yaml'
    model, args = base.name, canonical_args(base.args, base.pretrained_cfg)
    if checkpoint is None and run.is_file():
        values = yaml.safe_load(run.read_text(encoding='utf-8'))
        model, checkpoint, args = values['model'], values['initial_checkpoint'], values['model_kwargs']
    elif checkpoint is None and is_model_pretrained(tagged := f"{model}.{base.pretrained_cfg.get('tag')}"):
        model = tagged
    try:
        return load_original(model, str(checkpoint or ''), args).get_parameter(name).detach()
    except SbsError as e:
        raise SbsError(f"{e} The flag for that is --original FILE.") from e


def draw_kernels(
        source: Path,
        original: str | Path | None = None,
        layer: str | None = None,
) -> Figure:
    """Kernels of a layer in the order in which they are generated: original, generated, and their difference.

    Those of a rounded weight are in the order of its filters.
    """
    artifact = load_artifact(source)
    generator = artifact.generator
    indices = {spec.name: index for index, spec in enumerate(generator.specs)}
    rounded = specs_from_names(tuple(artifact.rounded), artifact.base.state, artifact.base.name)
    specs = {spec.name: spec for spec in (*rounded, *generator.specs)}
    layer = layer or max(generator.specs or specs.values(), key=lambda spec: spec.num_kernels).name
    if layer not in specs:
        raise SbsError(f"'{layer}' is neither a generated nor a rounded weight of '{source}'. Its first is "
                       f"'{next(iter(indices or specs))}'.")
    spec, generated = specs[layer], layer in indices
    places = torch.arange(spec.num_kernels)
    if generated:
        order = kernel_at_place(generator.permutations[indices[layer]], spec, generator.config.ordering)
        places = torch.from_numpy(order)
    places = places[:LONGEST_PATH]
    weight, own = _original_weight(artifact, layer, source, original), artifact.state_dict()[layer].cpu()
    if relative_error({layer: own}, {layer: weight}) >= 1:
        raise SbsError(f"'{source}' was not made from these weights: '{layer}' is another one. Name the original with "
                       f'--original FILE.')
    expected, found = to_kernels(weight, spec)[places], to_kernels(own, spec)[places]
    limit = float(expected.abs().quantile(0.99))
    figure = Figure(figsize=(7, 3.2))
    rows = {'original': expected, 'generated' if generated else 'rounded': found, 'difference': found - expected}
    for index, (title, kernels) in enumerate(rows.items()):
        axis = figure.add_subplot(3, 1, index + 1)
        axis.imshow(kernels.T.numpy(), aspect='auto', cmap='RdBu', vmin=-limit, vmax=limit, interpolation='nearest')
        axis.set_ylabel(title)
        axis.set_yticks([])
        if index < 2:
            axis.set_xticks([])
    order_of = 'generation' if generated else 'its filters'
    axis.set_xlabel(f'the first {len(places)} of {spec.num_kernels:,} kernels of {layer}, in the order of {order_of}')
    return figure


def draw_curves(source: Path, **_: object) -> Figure:
    """Loss of a training run over its steps, and agreement on held-out images over its time, phase by phase."""
    with open(source / 'summary.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots(1, 2)
    offset = 0
    for index, phase in enumerate(dict.fromkeys(row['phase'] for row in rows)):
        mine = [row for row in rows if row['phase'] == phase]
        losses: list[tuple[float, float]] = [
            (offset + int(row['step']), float(row['loss'])) for row in mine if row.get('loss')]
        agreements = [(float(row['seconds']) / 60, float(row['holdout_agreement']))
                      for row in mine if row.get('holdout_agreement')]
        for axis, points in zip(axes, (losses, agreements)):
            if points:
                axis.plot(*zip(*points), 'o-', markersize=3, label=phase, color=f'C{index}')
        offset += max(int(row['step']) for row in mine)
    axes[0].set_yscale('log')
    for axis, title, unit in zip(axes, ('loss', 'agreement, %'), ('step', 'minutes')):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit)
        axis.grid(alpha=0.5)
    for axis in axes:
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    return figure
