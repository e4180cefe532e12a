"""What an artifact is, and where its bytes go, as text."""
from pathlib import Path

from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, artifact_bytes, read_config
from timm_sbs.artifact.ledger import PARTS, sizes
from timm_sbs.common.config import OTHERS, ArtifactConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.results import number

__all__ = ['describe_artifact', 'describe_rounded', 'describe_storage']


def describe_artifact(folder: Path) -> str:
    """The artifact's configuration and size ledger, which config.json has; the other file need not be there.

    Raises:
        SbsError: The folder is not an artifact, config.json is damaged, or its files do not belong together.
    """
    config, pretrained_cfg = read_config(folder)
    ledger, config_bytes = sizes(config.ledger), (folder / CONFIG_NAME).stat().st_size
    total = ledger['file'] + config_bytes
    if (folder / WEIGHTS_NAME).is_file() and artifact_bytes(folder) != total:
        raise ArtifactError(
            f"{folder / WEIGHTS_NAME} does not have the {ledger['file']:,} bytes that {CONFIG_NAME} says: they do not "
            f'belong together. Download or copy the folder again.')
    rows = [('base', config.base), ('licence', pretrained_cfg.get('license') or 'unknown')]
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
    for part, size in {**{part: ledger[part] for part in PARTS if ledger[part]}, CONFIG_NAME: config_bytes}.items():
        lines.append(f'{part:<12} {size:>12,} bytes  {100 * size / total:5.1f} %')
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
