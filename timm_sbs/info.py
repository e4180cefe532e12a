"""What an artifact is, and where its bytes go, as text."""
from pathlib import Path
from typing import List, Tuple

import timm

from timm_sbs import hub
from timm_sbs.artifact import CONFIG_NAME, LICENSE_NAME, WEIGHTS_NAME, read_config
from timm_sbs.errors import ArtifactError
from timm_sbs.models import embedded_folder
from timm_sbs.sizes import PARTS

__all__ = ['find_folder', 'describe_artifact']


def find_folder(name: str, weights: bool = True) -> Path:
    """Folder of an artifact: a folder or a file in it, ``local-dir:FOLDER``, ``hf-hub:USER/NAME``, or an entry's name.

    Args:
        name: What a user calls it.
        weights: Whether model.safetensors is needed too, and a LICENSE; if not, only config.json is downloaded.

    Raises:
        ArtifactError: There is none.
    """
    files = (CONFIG_NAME, WEIGHTS_NAME) if weights else (CONFIG_NAME,)
    beside = (LICENSE_NAME,) if weights else ()
    if name.startswith('hf-hub:'):
        return hub.download(name.removeprefix('hf-hub:'), names=files, optional=beside)
    path = Path(name.removeprefix('local-dir:'))
    if path.is_file():
        path = path.parent
    if path.is_dir():
        return path
    embedded = embedded_folder(name)
    if embedded:
        return embedded
    if timm.is_model(name) and name.startswith('sbs_'):
        return hub.download(timm.get_pretrained_cfg(name).hf_hub_id, names=files, optional=beside)
    raise ArtifactError(
        f"'{name}' is neither a folder of a predictor nor the name of one. Named ones: "
        f"{', '.join(timm.list_models('sbs_*'))}.")


def describe_artifact(folder: Path) -> str:
    """The artifact's configuration and size ledger, which config.json has; the other file need not be there."""
    config, pretrained_cfg = read_config(folder)
    sizes = config.sizes
    weights = folder / WEIGHTS_NAME
    file_bytes = weights.stat().st_size if weights.is_file() else sizes.get('file')
    if sizes.get('file') != file_bytes:
        raise ArtifactError(
            f"{weights} has {file_bytes:,} bytes, but {CONFIG_NAME} says {sizes.get('file')}: they do not belong "
            f"together. Download or copy the folder again.")
    config_bytes = (folder / CONFIG_NAME).stat().st_size
    total = file_bytes + config_bytes
    quantization = config.quantization
    storage = config.storage_dtype
    if quantization:
        bits = ', '.join(f'{b:.2f}' for b in quantization.layer_bits)
        storage = f'integers of {bits} bits by layer, kept tensors of {quantization.kept_bits} bits'
    values = sizes['original_values']
    rows: List[Tuple[str, str]] = [
        ('base', config.base),
        ('licence', pretrained_cfg.get('license') or 'not recorded'),
        ('generated', f'{len(config.generated)} weights'),
        ('predictor', f"{config.predictor.linear_layers} layers, widths "
                      f"{', '.join(map(str, config.predictor.hidden_widths))}, "
                      f"{sizes['predictor_parameters']:,} parameters"),
        ('ordering', f'{config.ordering.granularity}, {config.ordering.coordinates}'),
        ('storage', storage)]
    results = config.results
    if 'top1' in results:
        rows.append(('top-1', f"{results['top1']:.2f} % on {results['images']:,} images "
                              f"(original {results['original_top1']:.2f} %)"))
    lines = [f'{label:<10} {text}' for label, text in rows] + ['']
    ledger = [(part, sizes[part]) for part in PARTS] + [(CONFIG_NAME, config_bytes)]
    for part, size in ledger:
        lines.append(f'{part:<12} {size:>12,} bytes  {100 * size / total:5.1f} %')
    lines.append(f"{'both files':<12} {total:>12,} bytes  {100 * total / sizes['original']:.2f} % of the original's "
                 f"{sizes['original']:,}, {8 * total / values:.2f} bits for each of its {values:,} values")
    return '\n'.join(lines)
