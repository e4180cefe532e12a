"""What a run would make, before it is started: what happens to each weight, and the sizes."""
import math
from collections.abc import Iterable

from timm_sbs.artifact.ledger import shown
from timm_sbs.predictor.base_model import kept_names, named_state
from timm_sbs.predictor.ordering import axis_sizes
from timm_sbs.predictor.selection import explain_selection
from timm_sbs.training.plan import Plan

__all__ = ['describe_plan']


def describe_plan(plan: Plan) -> str:
    """A plan as text."""
    original, design, name = plan.original, plan.design, plan.design.base.name
    parameters = sum(p.numel() for p in original.parameters())
    lines = [f'{name}: {parameters:,} parameters']

    def total(kind: str, count: int, values: int) -> str:
        return f'  {count} weights {kind}, {values:,} parameters ({100 * values / parameters:.1f} %)'

    if specs := design.specs:
        kernels = sum(spec.num_kernels for spec in specs)
        visited = sum(math.prod(axis_sizes(spec, design.generator.ordering)) for spec in specs)
        lines += ['', 'generated', *_table(
            (spec.name, str(list(spec.shape)), f'{spec.num_weights:,}',
             f'{spec.num_kernels:,} tokens of {spec.token_size}') for spec in specs),
            f"{total('generated', len(specs), design.num_generated)}: {kernels:,} kernels at {visited:,} positions"]
    if design.rounded:
        shapes = {weight: original.get_parameter(weight).shape for weight in design.rounded}
        values = sum(shape.numel() for shape in shapes.values())
        lines += ['', 'rounded', *_table(
            (weight, str(list(shape)), f'{shape.numel():,}') for weight, shape in shapes.items()),
            total('rounded', len(shapes), values)]
    state, reasons = named_state(original), explain_selection(original, plan.settings.target.rule)
    counts: dict[str, list[int]] = {}
    kept = kept_names(state, {spec.name for spec in specs} | set(design.rounded))
    if origin := design.origin:
        unchanged = [entry for entry in kept if entry not in origin.stored]
        kept = [entry for entry in kept if entry in origin.stored]
        values = sum(state[entry].numel() for entry in unchanged)
        lines += ['', f'unchanged, and taken from {origin.name}: {len(unchanged)} tensors, {values:,} values, no bytes']
    for entry in kept:
        counts.setdefault(reasons.get(entry, 'statistics and buffers'), []).append(state[entry].numel())
    lines += ['', 'stored (neither generated nor rounded)', *_table(
        (reason, f'{sum(sizes):,}', f"values in {len(sizes):,} tensor{'s' if len(sizes) > 1 else ''}")
        for reason, sizes in counts.items()), '']
    if specs:
        bits = f', {plan.settings.target.bits:g} bits per weight' if plan.settings.target.bits else ''
        lines.append(f'predictor: width {design.generator.predictor.width}, {design.num_parameters:,} parameters '
                     f'({100 * design.num_parameters / parameters:.1f} %){bits}')
    sizes = design.forecast(original)
    size = min(sizes['total'], plan.settings.target.max_bytes or sizes['total'])
    about = 'about ' if design.storage.quantization else ''
    lines += [f"both files: {about}{size:,} bytes, {sizes['original'] / size:.1f} times smaller than the original's "
              f'values', '  ' + ', '.join(f'{part} {size:,}' for part, size in shown(sizes).items())]
    if plan.uses:
        count = plan.images.sample.count if plan.images.sample else plan.settings.second_order.statistics_images
        lines.append(f'activation statistics: {count:,} images')
    return '\n'.join([*lines, f"phases: {', '.join(plan.phases).replace('_', ' ')}"])


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows of text as lines: the first column left, the others by their widest entries."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ['  ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
