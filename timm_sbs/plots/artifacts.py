"""Pictures of an artifact and of the run that made it."""
import csv
from pathlib import Path
from typing import Any, Optional, Union

import timm
import torch
from torch import Tensor

from timm_sbs.artifact import CONFIG_NAME, Artifact, load_artifact, read_config
from timm_sbs.errors import SbsError
from timm_sbs.ordering import kernel_at_place
from timm_sbs.plots.style import Figure
from timm_sbs.sizes import PARTS
from timm_sbs.targets import to_kernels

__all__ = ['draw_ledger', 'draw_kernels', 'draw_curves']

LONGEST_PATH = 512  # kernels that a picture shows


def draw_ledger(source: Path, *_: Any, **__: Any) -> Figure:
    """Where the bytes of both files are."""
    config, _ = read_config(source)
    parts = {**{part: config.sizes[part] for part in PARTS}, CONFIG_NAME: (source / CONFIG_NAME).stat().st_size}
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
                   f"{config.sizes['original'] / total:.1f} times smaller than float32", fontsize=10)
    figure.legend(ncols=3, frameon=False, loc='outside lower center', fontsize=8)
    return figure


def _original_weight(artifact: Artifact, name: str, checkpoint: Optional[Union[str, Path]]) -> Tensor:
    given = {'checkpoint_path': str(checkpoint)} if checkpoint else {'pretrained': True}
    try:
        model = timm.create_model(artifact.config.base, **artifact.config.base_args, **given)
        return model.get_parameter(name).detach()
    except Exception as e:  # whatever timm and the Hub raise
        raise SbsError(f"The original weights of '{artifact.config.base}' are not to be had: {e}. Name their "
                       f'checkpoint with --original.') from e


def draw_kernels(
        source: Path,
        _: Any,
        original: Optional[Union[str, Path]] = None,
        layer: Optional[str] = None,
) -> Figure:
    """Kernels of a layer in the order in which they are generated: original, generated, and their difference."""
    artifact = load_artifact(source)
    specs = {spec.name: index for index, spec in enumerate(artifact.specs)}
    layer = layer or max(artifact.specs, key=lambda spec: spec.num_kernels).name
    if layer not in specs:
        raise SbsError(f"'{layer}' is no generated weight of '{source}'. Its first is '{next(iter(specs))}'.")
    spec, permutation = artifact.specs[specs[layer]], artifact.permutations[specs[layer]]
    places = torch.from_numpy(kernel_at_place(permutation, spec, artifact.config.ordering))[:LONGEST_PATH]
    expected = to_kernels(_original_weight(artifact, layer, original), spec)[places]
    found = to_kernels(artifact.state_dict()[layer].cpu(), spec)[places]
    limit = float(expected.abs().quantile(0.99))
    figure = Figure(figsize=(7, 3.2))
    rows = {'original': expected, 'generated': found, 'difference': found - expected}
    for index, (title, kernels) in enumerate(rows.items()):
        axis = figure.add_subplot(3, 1, index + 1)
        axis.imshow(kernels.T.numpy(), aspect='auto', cmap='RdBu', vmin=-limit, vmax=limit, interpolation='nearest')
        axis.set_ylabel(title)
        axis.set_yticks([])
        if index < 2:
            axis.set_xticks([])
    axis.set_xlabel(f"the first {len(places)} of {spec.num_kernels:,} kernels of {layer}, in the order of generation")
    return figure


def draw_curves(source: Path, *_: Any, **__: Any) -> Figure:
    """Loss of a training run over its steps, and accuracy over its time, phase by phase."""
    with open(source / 'summary.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots(1, 2)
    offset = 0
    for index, phase in enumerate(dict.fromkeys(row['phase'] for row in rows)):
        mine = [row for row in rows if row['phase'] == phase]
        losses = [(offset + int(row['step']), float(row['loss'])) for row in mine if row.get('loss')]
        accuracies = [(float(row['seconds']) / 60, float(row['top1'])) for row in mine if row.get('top1')]
        for axis, points in zip(axes, (losses, accuracies)):
            if points:
                axis.plot(*zip(*points), 'o-', markersize=3, label=phase, color=f'C{index}')
        offset += max(int(row['step']) for row in mine)
    axes[0].set_yscale('log')
    for axis, title, unit in zip(axes, ('loss', 'top-1, %'), ('step', 'minutes')):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit)
        axis.grid(alpha=0.5)
    for axis in axes:
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    return figure
