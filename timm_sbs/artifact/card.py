"""Model cards for the Hub: what an artifact's own config.json says and measured, and nothing else."""
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from timm_sbs.artifact.describe import describe_rounded, describe_storage
from timm_sbs.artifact.files import ONNX_NAME
from timm_sbs.artifact.ledger import shown
from timm_sbs.artifact.transformers_js import photograph_input
from timm_sbs.common.config import ArtifactConfig
from timm_sbs.common.entries import ENTRIES
from timm_sbs.common.errors import printable
from timm_sbs.common.results import block, number, text

__all__ = ['CARD_NAME', 'artifact_card', 'plain']

CARD_NAME = 'README.md'
_TEMPLATE = Path(__file__).with_name('card.md')
_TAGS = ['image-classification', 'timm_sbs']
_ONNX_TAGS = ['onnx', 'transformers.js']  # the Hub shows how to run a model with these libraries
_PHASES = {
    'reconstruction': 'reconstruction', 'second_order': 'second-order reconstruction', 'distillation': 'distillation',
    'quantization': 'distillation, rounded'}

_AGREEMENT = {
    'classification': 'same class as the original', 'embedding': 'cosine similarity of the features',
    'multi-label': 'overlap of the predicted labels'}

# What means something in Markdown, in HTML, or to what makes links, formulas, mentions and pictures of plain text.
_MARKUP = re.compile(r'[\\`*{}\[\]<>|~&$#@:!]|(?<!\w)_|_(?!\w)|(?<=www)\.', re.IGNORECASE)
_MOST_VERSIONS = 16  # packages

Results = Mapping[str, Any]
Table = list[tuple[str, ...]]


def artifact_card(
        repo_id: str, config: ArtifactConfig, pretrained_cfg: Results, ledger: Mapping[str, int], has_license: bool,
        onnx_bytes: int = 0,
) -> str:
    """The card of an artifact in repository 'user/name', from what its config.json says; ``ledger`` is that of
    :meth:`~timm_sbs.artifact.artifact.Artifact.ledger`, ``onnx_bytes`` the size of an ONNX model in the repository."""
    results, license = config.results, printable(pretrained_cfg.get('license') or '', 200)
    user, _, name = repo_id.partition('/')
    entry = ENTRIES.get(name) if user == 'timm-sbs' else None
    dataset = entry.dataset if entry else text(results, 'dataset')
    base_model = _base_model(config)
    data = ModelCardData(
        license=license or 'unknown', library_name='timm', pipeline_tag='image-classification',
        tags=[*_TAGS, *(_ONNX_TAGS if onnx_bytes else [])],
        base_model=base_model,
        # In the Hub's words, which would else take everything with an ONNX file for quantized.
        base_model_relation=base_model and ('finetune' if config.update else 'quantized'),
        datasets=[dataset] if dataset else None, **_model_index(name, dataset, results))
    card = ModelCard.from_template(
        data, template_path=str(_TEMPLATE), name=name, source=name if entry else f'hf-hub:{repo_id}', base=config.base,
        generates=bool(config.generated), update_of=config.update and plain(config.update.base),
        comparison=_comparison(results, ledger),
        ledger=[(part, f'{size:,}') for part, size in shown(ledger).items()],
        making=_making(config), license=license and plain(license), own_license=has_license,
        agreement=_percent(results, 'agreement') if number(results, 'top1', 100) is not None else None,
        repo_id=repo_id, onnx_bytes=onnx_bytes and f'{onnx_bytes:,}', onnx_name=ONNX_NAME,
        images=photograph_input(pretrained_cfg, results) if onnx_bytes else None)
    return str(card).rstrip('\n') + '\n'


def _base_model(config: ArtifactConfig) -> str | None:
    """Repository of the original, or of an update's base."""
    if not (update := config.update):
        return text(config.results, 'original_hub_id')
    name = f'timm-sbs/{update.base}' if update.base in ENTRIES else update.base.partition('@')[0]
    return name if '/' in name else None


def plain(text: str) -> str:
    """A text from a file in Markdown, where it reads as it is written.

    Example:
        >>> plain('<img onerror=x> | [a](www.b.c)')
        '\\\\<img onerror=x\\\\> \\\\| \\\\[a\\\\](www\\\\.b.c)'
    """
    return _MARKUP.sub(r'\\\g<0>', text)


def _text(results: Results, name: str) -> str | None:
    """A recorded text for the card's own words, or None."""
    found = text(results, name)
    return found and plain(found)


def _told(results: Results, name: str, words: str, most: float = 1e15) -> str | None:
    """A recorded number in words, or None."""
    figure = number(results, name, most)
    return None if figure is None else words.format(figure)


def _percent(results: Results, name: str) -> str | None:
    return _told(results, name, '{:.2f} %', 100)


def _model_index(name: str, dataset: str | None, results: Results) -> dict[str, Any]:
    """The accuracy, in the words of the Hub's model-index, if it and its images are known, and these are the data
    set's own validation images."""
    top1 = number(results, 'top1', 100)
    if not dataset or top1 is None or text(results, 'measured_on'):
        return {}
    return {'model_name': name, 'eval_results': [EvalResult(
        task_type='image-classification', dataset_type=dataset, dataset_name=dataset, metric_type='accuracy',
        metric_name='top-1', metric_value=top1)]}


def _comparison(results: Results, ledger: Mapping[str, int]) -> Table:
    parts = _told(results, 'images', '{:,.0f} images'), _text(results, 'measured_on')
    where = ''.join(f', {part}' for part in parts if part)
    rows: Table = []
    if top1 := _percent(results, 'top1'):
        rows.append((f'top-1{where}', _percent(results, 'original_top1') or 'not measured', top1))
    if agreement := _percent(results, 'agreement'):
        task = 'classification' if top1 else str(results.get('task'))
        same = _AGREEMENT.get(task, _AGREEMENT['embedding'])
        rows.append((f'{same}{where}', '', agreement))
    rows.append(('bytes', f"{ledger['original']:,} (float32 values)",
                 f"{ledger['total']:,} (both files; {100 * ledger['total'] / max(1, ledger['original']):.1f} %)"))
    if (parameters := _told(results, 'original_parameters', '{:,.0f}')) and ledger['predictor_parameters']:
        rows.append(('parameters', parameters, f"{ledger['predictor_parameters']:,} of the predictor"))
    return rows


def _phases(results: Results) -> str:
    """Of one run."""
    found = [f'{steps:,.0f} steps of {words}' for phase, words in _PHASES.items()
             if (steps := number(results, f'{phase}_steps'))]
    if number(results, 'rounding_error') is not None:  # else weights were not rounded before the first step
        found.insert(0, f"rounding by {'second order' if number(results, 'statistics_images') else 'squared error'}")
    return ', '.join(found)


def _making(config: ArtifactConfig) -> Table:
    results = config.results
    held_out = _told(results, 'holdout_divergence', 'divergence from the original {:.4f}')
    if held_out:
        held_out += f", agreement {_percent(results, 'holdout_agreement') or 'not measured'}"
        held_out += _told(results, 'holdout_images', ', on {:,.0f} training images') or ''
    runs, versions = (block(results, 'started_from'), results), block(results, 'versions')
    rows = [
        ('phases', '; then '.join(filter(None, map(_phases, runs))) or 'not recorded'),
        ('error of the weights after reconstruction', _told(results, 'reconstruction_error', '{:.4f}')),
        ('error of the weights after rounding', _told(results, 'rounding_error', '{:.4f}')),
        ('images for statistics', _told(results, 'statistics_images', '{:,.0f}, without labels')),
        ('images without labels', _text(results, 'unlabelled')),
        ('held-out images', held_out),
        ('synthetic images', 'inverted from the original' if results.get('data_free') else None),
        ('generated', f'{len(config.generated)} weights; ordering of their kernels: {config.ordering.order_over}'
         if config.generated else None),
        ('rounded', describe_rounded(config) if config.rounded else None),
        ('stored as', describe_storage(config)), ('seed', _told(results, 'seed', '{:.0f}')),
        ('versions', ', '.join(f'{plain(printable(name, 64))} {version}' for name in [*versions][:_MOST_VERSIONS]
                               if (version := _text(versions, name)))),
        ('hardware', _text(results, 'hardware'))]
    return [(label, value) for label, value in rows if value]
