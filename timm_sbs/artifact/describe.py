"""An artifact in words: what it is, where its bytes go, and a warning where it has lost what its original does."""
from collections.abc import Mapping
from typing import Any

from timm_sbs.artifact.ledger import shown
from timm_sbs.common.config import OTHERS, ArtifactConfig
from timm_sbs.common.errors import printable
from timm_sbs.common.results import number

__all__ = ['description', 'describe_rounded', 'describe_storage', 'lost_function']

AGREEMENT = 80.  # %: with less, a network has lost its function
# Errors of weights, squared and relative, with which ResNet-20 agrees with its original on about so many test images:
# after reconstruction 0.11 (and 0.08 on 84 %), after distillation and a quantization of 0.08, after rounding 0.06.
LARGEST_ERROR = {'reconstruction': 0.1, 'quantization': 0.1, 'rounding': 0.06}
ON_IMAGES = ('statistics_images', 'distillation_steps', 'data_free', 'unlabelled')


def description(config: ArtifactConfig, pretrained_cfg: Mapping[str, Any], ledger: Mapping[str, int]) -> str:
    """What ``timm-sbs info`` shows of an artifact: its configuration and where its bytes go."""
    rows = [('base', config.base), *([('update of', printable(config.update.base, 200))] if config.update else []),
            ('licence', printable(pretrained_cfg.get('license') or 'unknown', 200))]
    if config.generated:
        bits = 8 * ledger['predictor'] / max(1, ledger['predictor_parameters'])
        rows += [
            ('generated', f'{len(config.generated)} weights'),
            ('predictor', f"{config.predictor.linear_layers} layers, widths "
                          f"{', '.join(map(str, config.predictor.hidden_widths))}, "
                          f"{ledger['predictor_parameters']:,} parameters of {bits:.2f} bits"),
            ('ordering', f'{config.ordering.order_over}, {config.ordering.coordinates}')]
    if config.rounded:
        rows.append(('rounded', describe_rounded(config)))
    rows.append(('storage', describe_storage(config)))
    top1, original = number(config.results, 'top1', 100), number(config.results, 'original_top1', 100)
    images, agreement = number(config.results, 'images'), number(config.results, 'holdout_agreement', 100)
    if top1 is not None:
        rows.append(('top-1', f'{top1:.2f} %' + (f' on {images:,.0f} images' if images is not None else '')
                     + (f' (original {original:.2f} %)' if original is not None else '')))
    elif agreement is not None:
        rows.append(('agreement', f'{agreement:.2f} % on held-out training images'))
    lines = [f'{label:<10} {value}' for label, value in rows] + ['']
    total = ledger['total']
    lines += [f'{part:<12} {size:>12,} bytes  {100 * size / total:5.1f} %' for part, size in shown(ledger).items()]
    values = max(1, ledger['original_values'])
    lines.append(f"{'both files':<12} {total:>12,} bytes  {100 * total / (4 * values):.2f} % of the original's "
                 f"{ledger['original']:,}, {8 * total / values:.2f} bits for each of its {values:,} values")
    return '\n'.join(lines)


def describe_rounded(config: ArtifactConfig) -> str:
    """Which weights are rounded."""
    if OTHERS in config.rounded:
        return 'all weights that are not generated' if config.generated else 'all weights'
    return f'{len(config.rounded)} weights'


def describe_storage(config: ArtifactConfig) -> str:
    """How numbers are stored."""
    if config.quantization is None:
        return config.storage_dtype
    bits = ', '.join(f'{b:.2f}' for b in config.quantization.layer_bits)
    integers = f'integers of {bits} bits by layer' if bits else 'integers'
    return f'{integers}, stored tensors of {config.quantization.kept_bits} bits, entropy-coded'


def lost_function(results: Mapping[str, Any]) -> str | None:
    """A warning with a way out, if a network has lost its function; None if it has not, or nobody can know.

    What was measured on images decides. Where images had no part in making the artifact, the errors of its weights do;
    else these were brought to where predictions do not change.
    """
    agreement = number(results, 'agreement', 100)
    if agreement is None:
        agreement = number(results, 'holdout_agreement', 100)
    if agreement is not None:
        return None if agreement >= AGREEMENT else (
            f"Only {agreement:.1f} % of its predictions are the original's. Allow more bytes, bits or "
            f'parameters, or fit it with more images and optimization steps.')
    if any(results.get(name) for name in ON_IMAGES) or all(
            (number(results, f'{phase}_error') or 0.) <= most for phase, most in LARGEST_ERROR.items()):
        return None
    return ("The weights differ so much from the original's that probably more than a fifth of the predictions have "
            'changed. Allow more bytes, bits or parameters, or fit it on images (--images, --data-dir or --data-free). '
            'timm-sbs eval measures the accuracy.')
