"""Pictures of artifacts and of results files, light or dark."""
import json
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

from timm_sbs.artifact import CONFIG_NAME
from timm_sbs.errors import SbsError
from timm_sbs.plots.artifacts import draw_curves, draw_kernels, draw_ledger
from timm_sbs.plots.results import draw_ablation, draw_accuracy_over_bytes, draw_folding, draw_loading, \
    draw_robustness, draw_spectrum
from timm_sbs.plots.style import THEMES, Figure, save, themed

__all__ = ['KINDS', 'THEMES', 'plot']


def plot(
        source: Union[str, Path],
        output: Union[str, Path],
        kind: Optional[str] = None,
        theme: str = 'light',
        original: Optional[Union[str, Path]] = None,
        layer: Optional[str] = None,
) -> str:
    """Draw a picture of an artifact or a results file.

    Args:
        source: Folder of an artifact or of a training run, or a JSON file of ``tests/benchmarks/results``.
        output: Picture to write; its suffix is the format (png, svg, pdf). It appears complete or not at all.
        kind: One of ``KINDS``; default: the first that the source has something for.
        theme: 'light' or 'dark'.
        original: Checkpoint of the original weights, for 'kernels'; default: timm's pretrained ones.
        layer: Generated weight that 'kernels' shows; default: the largest.

    Returns:
        The kind that was drawn.

    Raises:
        SbsError: The source has nothing for this kind, or the picture cannot be written.
    """
    source = Path(source)
    results = _read_results(source) if source.is_file() and source.suffix == '.json' else None
    suits = [name for name, (fits, _) in KINDS.items() if fits(source, results)]
    if kind and kind not in suits:
        raise SbsError(f"'{source}' has nothing for a picture of '{kind}'"
                       + (f", but for: {', '.join(suits)}." if suits else '.'))
    if not suits:
        raise SbsError(f"'{source}' is neither an artifact, nor a training run, nor a results file with a picture.")
    kind = kind or suits[0]
    with themed(theme):
        figure = KINDS[kind][1](source, results, original=original, layer=layer)
        save(figure, Path(output))
    return kind


def _read_results(path: Path) -> Dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as e:
        raise SbsError(f"'{path}' cannot be read as JSON: {e}.") from e
    return found if isinstance(found, dict) else {}


def _has(*keys: str) -> Callable[[Path, Optional[Mapping[str, Any]]], bool]:
    return lambda source, results: bool(results) and all(key in results for key in keys)


def _networks_have(key: str) -> Callable[[Path, Optional[Mapping[str, Any]]], bool]:
    def fits(source: Path, results: Optional[Mapping[str, Any]]) -> bool:
        networks = (results or {}).get('networks')
        if not isinstance(networks, dict) or not networks:
            return False
        entries = [entry[0] if isinstance(entry, list) and entry else entry for entry in networks.values()]
        return all(isinstance(entry, dict) and key in entry for entry in entries)
    return fits


def _is_artifact(source: Path, results: Any) -> bool:
    return (source / CONFIG_NAME).is_file()


# What can be drawn: whether a source has it, and how.
KINDS: Dict[str, Tuple[Callable[..., bool], Callable[..., Figure]]] = {
    'ledger': (_is_artifact, draw_ledger),
    'kernels': (_is_artifact, draw_kernels),
    'curves': (lambda source, _: (source / 'summary.csv').is_file(), draw_curves),
    'accuracy': (_networks_have('points'), draw_accuracy_over_bytes),
    'folding': (_networks_have('max_places'), draw_folding),
    'loading': (_networks_have('full_ms'), draw_loading),
    'spectrum': (_has('tangent_kernels', 'bands'), draw_spectrum),
    'ablation': (_has('summary', 'rows', 'distillation_steps'), draw_ablation),
    'robustness': (_has('summary', 'rows', 'albumentations'), draw_robustness),
}
