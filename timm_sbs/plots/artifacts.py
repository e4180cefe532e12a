"""Pictures of an artifact (the bytes of its parts, kernels along their path) and curves of the run that made it."""
import csv
from pathlib import Path

import torch
import yaml
from timm.models import is_model_pretrained
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.files import CONFIG_NAME, read_config
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.artifact.ledger import PARTS, sizes
from timm_sbs.artifact.original import load_original
from timm_sbs.common.errors import SbsError
from timm_sbs.plots.style import Figure
from timm_sbs.predictor.base_model import canonical_args
from timm_sbs.predictor.ordering import kernel_at_position
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.predictor.tokens import to_kernels

__all__ = ['RUN_SETTINGS', 'SUMMARY', 'draw_ledger', 'draw_kernels', 'draw_curves']

LONGEST_PATH = 512  # kernels that a picture shows
RUN_SETTINGS, SUMMARY = 'settings.yaml', 'summary.csv'  # files of a training run


def draw_ledger(source: Path, **_: object) -> Figure:
    """Bytes of each part of both files."""
    config, _ = read_config(source)
    ledger = {**sizes(config.ledger), CONFIG_NAME: (source / CONFIG_NAME).stat().st_size}
    parts = {part: ledger[part] for part in (*PARTS, CONFIG_NAME) if ledger[part]}
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
                   f"{ledger['original'] / total:.1f} times smaller than float32", fontsize=10)
    figure.legend(ncols=3, frameon=False, loc='outside lower center', fontsize=8)
    return figure


def _original_weight(artifact: Artifact, name: str, source: Path, checkpoint: str | Path | None) -> Tensor:
    """Of the given checkpoint, else of the weights that the run in this folder started from, else of timm's weights."""
    base, settings = artifact.base, source / RUN_SETTINGS
    model, args = base.name, canonical_args(base.args, base.pretrained_cfg)
    if checkpoint is None and settings.is_file():
        values = yaml.safe_load(settings.read_text(encoding='utf-8'))
        model, checkpoint, args = values['model'], values.get('initial_checkpoint'), values.get('model_kwargs')
    elif checkpoint is None and is_model_pretrained(tagged := f"{model}.{base.pretrained_cfg.get('tag')}"):
        model = tagged
    try:
        return load_original(model, str(checkpoint or ''), args).get_parameter(name).detach()
    except SbsError as e:
        raise SbsError(f'{e} Name a checkpoint of the original weights with --original FILE.') from e


def draw_kernels(source: Path, original: str | Path | None = None, layer: str | None = None) -> Figure:
    """Kernels of a layer along their path, or in the order of the filters where they are rounded: original, generated
    or rounded, and the difference."""
    artifact = load_artifact(source)
    generator = artifact.generator
    rounded = specs_from_names(tuple(artifact.rounded), artifact.base.state, artifact.base.name)
    specs = {spec.name: spec for spec in (*generator.specs, *rounded)}
    name = layer or max(generator.specs or rounded, key=lambda spec: spec.num_kernels).name
    if name not in specs:
        raise SbsError(f"'{name}' is neither a generated nor a rounded weight of '{source}'. The first of these is "
                       f"'{next(iter(specs))}'.")
    spec, kind, order = specs[name], 'rounded', torch.arange(specs[name].num_kernels)
    if name in generator.names:
        permutation = generator.permutations[generator.names.index(name)]
        kind, order = 'generated', torch.from_numpy(kernel_at_position(permutation, spec, generator.config.ordering))
    order = order[:LONGEST_PATH]
    expected = to_kernels(_original_weight(artifact, name, source, original), spec)[order]
    found = to_kernels(artifact.state_dict()[name].cpu(), spec)[order]
    limit = float(expected.abs().quantile(0.99))
    figure = Figure(figsize=(7, 3.2))
    axes = figure.subplots(3, 1)
    for axis, title, kernels in zip(axes, ('original', kind, 'difference'), (expected, found, found - expected)):
        axis.imshow(kernels.T.numpy(), aspect='auto', cmap='RdBu', vmin=-limit, vmax=limit, interpolation='nearest')
        axis.set_ylabel(title)
        axis.set_yticks([])
        if title != 'difference':
            axis.set_xticks([])
    where = 'along the path' if kind == 'generated' else 'filter by filter'
    axes[-1].set_xlabel(f'the first {len(order)} of {spec.num_kernels:,} kernels of {name}, {where}')
    return figure


def draw_curves(source: Path, **_: object) -> Figure:
    """Loss of a training run over its optimization steps, and agreement on held-out images over time, by phase."""
    with open(source / SUMMARY, encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots(1, 2)
    start = 0
    for index, phase in enumerate(dict.fromkeys(row['phase'] for row in rows)):
        mine = [row for row in rows if row['phase'] == phase]
        losses: list[tuple[float, float]] = [
            (start + int(row['step']), float(row['loss'])) for row in mine if row['loss']]
        agreements = [(float(row['seconds']) / 60, float(row['holdout_agreement']))
                      for row in mine if row['holdout_agreement']]
        for axis, points in zip(axes, (losses, agreements)):
            if points:
                axis.plot(*zip(*points), 'o-', markersize=3, label=phase, color=f'C{index}')
        start += max(int(row['step']) for row in mine)
    axes[0].set_yscale('log')
    for axis, title, unit in zip(axes, ('loss', 'agreement, %'), ('optimization step', 'minutes')):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit)
        axis.grid(alpha=0.5)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    return figure
