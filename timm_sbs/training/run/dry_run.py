"""What a run would do, before it does it: what becomes of each weight, sizes, memory."""
from torch import nn

from timm_sbs.artifact.folder import artifact_ledger
from timm_sbs.common.config import SelectionRule
from timm_sbs.common.results import PARTS
from timm_sbs.predictor.base_model import kept_names, named_state
from timm_sbs.predictor.ordering import places
from timm_sbs.predictor.selection import explain_selection
from timm_sbs.training.design.sizing import Design
from timm_sbs.training.run.calibration import statistics_bytes
from timm_sbs.training.run.start import Start

__all__ = ['describe_dry_run']


def describe_dry_run(name: str, start: Start) -> str:
    """What a run would do, as text.

    Args:
        name: Of the original.
        start: What is known before the first step.
    """
    original, design = start.original, start.design
    parameters = sum(p.numel() for p in original.parameters())
    specs = design.specs
    lines = [f'{name}: {parameters:,} parameters', '', *_generated_lines(design, parameters),
              *_rounded_lines(original, design, parameters, bool(start.source))]
    lines += ['', 'kept, and why' + (' (--generate and --keep overrule this)' if specs else ''),
              *_kept_lines(original, design, start.settings.predictor.rule)]

    size, quantization = design.num_parameters, design.storage.quantization
    as_it_is = start.source if not specs else None  # rounded weights keep their steps, and about their size
    ledger = artifact_ledger(as_it_is) if as_it_is else design.forecast(original)
    bits = f', {quantization.layer_bits[0]:g} bits a weight' if quantization and specs else ''
    lines.append('')
    if specs:
        lines.append(f'predictor: width {design.generator.predictor.width}, {size:,} parameters '
                     f'({100 * size / parameters:.1f} %){bits}')
    lines += [
        f"files: {ledger['total']:,} bytes ({ledger['original'] / ledger['total']:.1f} x smaller than the original's "
        f"values, {ledger['original']:,})",
        '  ' + ', '.join(f'{part} {ledger[part]:,}' for part in PARTS if ledger[part])
        + f", config.json about {ledger['config']:,}",
        *_statistics_lines(start)]
    return '\n'.join(lines)


def _generated_lines(design: Design, parameters: int) -> list[str]:
    specs = design.specs
    if not specs:
        return []
    lines, width = ['generated'], max(len(spec.name) for spec in specs)
    for spec in specs:
        lines.append(f'  {spec.name:<{width}}  {list(spec.shape)!s:<20} {spec.num_weights:>12,}  '
                     f'{spec.num_kernels:,} tokens of {spec.token_size}')
    kernels = sum(spec.num_kernels for spec in specs)
    visited = sum(len(places(spec, design.generator.ordering)[0]) for spec in specs)
    lines.append(f'  {len(specs)} weights, {kernels:,} kernels at {visited:,} places, {design.num_generated:,} '
                 f'parameters ({100 * design.num_generated / parameters:.1f} %)')
    return lines


def _rounded_lines(original: nn.Module, design: Design, parameters: int, continued: bool) -> list[str]:
    if not design.rounded:
        return []
    shapes = {name: original.get_parameter(name).shape for name in design.rounded}
    lines, width = [*([''] if design.specs else []), 'rounded'], max(map(len, shapes))
    lines += [f'  {name:<{width}}  {list(shape)!s:<20} {shape.numel():>12,}' for name, shape in shapes.items()]
    total = sum(shape.numel() for shape in shapes.values())
    bits = '' if continued else f', of about {design.rounded_bits:.2f} bits at first'
    lines.append(f'  {len(shapes)} weights, {total:,} parameters ({100 * total / parameters:.1f} %){bits}')
    return lines


def _statistics_lines(start: Start) -> list[str]:
    """What the second-order phase looks at, and the memory that it takes."""
    if not start.settings.takes_statistics:
        return []
    images = start.images.sample[1] if start.images.sample else start.settings.second_order.images
    memory = 2 * statistics_bytes(start.uses) / 1e6
    lines = [f'statistics: {images:,} images, {memory:,.0f} MB of memory']
    weights = [spec.name for spec in start.design.specs] or start.design.rounded
    missing = [name for name in weights if name not in start.uses]
    if missing:
        lines.append(f"  none for {len(missing)} weight(s), such as '{missing[0]}', which no image reaches, or not as "
                     f'they are')
    return lines


def _kept_lines(original: nn.Module, design: Design, rule: SelectionRule) -> list[str]:
    """Number of kept values by why they are kept."""
    state, reasons = named_state(original), explain_selection(original, rule)
    counts: dict[str, list[int]] = {}
    for name in kept_names(state, {spec.name for spec in design.specs} | set(design.rounded)):
        reason = reasons.get(name, 'statistics and buffers') or 'not in the artifact to start from'
        counts.setdefault(reason, []).append(state[name].numel())
    width = max(map(len, counts), default=0)
    return [f'  {reason:<{width}} {sum(sizes):>12,} values in {len(sizes):,} tensors'
            for reason, sizes in counts.items()]
