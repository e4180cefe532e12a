"""What an artifact is, and where its bytes go, as text."""
from pathlib import Path

from timm_sbs.artifact.files import CONFIG_NAME, ArtifactFiles
from timm_sbs.artifact.folder import written_ledger
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.results import Results

__all__ = ['describe_artifact']


def describe_artifact(folder: Path) -> str:
    """The artifact's configuration and size ledger, which config.json has; the other file need not be there.

    Raises:
        SbsError: The folder is no artifact, config.json is damaged, or its files do not belong together.
    """
    files = ArtifactFiles.of(folder)
    config, pretrained_cfg = files.parsed()
    sizes = written_ledger(config)
    if files.weights_bytes not in (None, sizes.file):
        raise ArtifactError(
            f"{files.weights} has {files.weights_bytes:,} bytes, but {CONFIG_NAME} says {sizes.file:,}: they do not "
            f"belong together. Download or copy the folder again.")
    total = sizes.file + len(files.config)
    rows = [('base', config.base), ('licence', pretrained_cfg.get('license') or 'unknown')]
    if config.generated:
        bits = 8 * sizes.predictor / max(1, sizes.predictor_parameters)
        rows += [
            ('generated', f'{len(config.generated)} weights'),
            ('predictor', f"{config.predictor.linear_layers} layers, widths "
                          f"{', '.join(map(str, config.predictor.hidden_widths))}, "
                          f'{sizes.predictor_parameters:,} parameters of {bits:.2f} bits'),
            ('ordering', f'{config.ordering.order_over}, {config.ordering.coordinates}')]
    if config.rounded:
        rows.append(('rounded', config.rounded_words))
    rows.append(('storage', config.storage_words))
    if config.results.top1 is not None:
        rows.append(('top-1', _accuracy(config.results)))
    elif config.results.holdout_agreement is not None:
        rows.append(('agreement', f'{config.results.holdout_agreement:.2f} % on held-out training images'))
    lines = [f'{label:<10} {text}' for label, text in rows] + ['']
    for part, size in {**sizes.parts, CONFIG_NAME: len(files.config)}.items():
        lines.append(f'{part:<12} {size:>12,} bytes  {100 * size / total:5.1f} %')
    lines.append(f"{'both files':<12} {total:>12,} bytes  {100 * total / sizes.original:.2f} % of the original's "
                 f"{sizes.original:,}, {8 * total / sizes.original_values:.2f} bits for each of its "
                 f"{sizes.original_values:,} values")
    return '\n'.join(lines)


def _accuracy(results: Results) -> str:
    images = f' on {results.images:,} images' if results.images is not None else ''
    original = f' (original {results.original_top1:.2f} %)' if results.original_top1 is not None else ''
    return f'{results.top1:.2f} %{images}{original}'
