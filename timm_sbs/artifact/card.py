"""Model cards for the Hub: what an artifact's own config.json says and measured, and nothing else."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from timm_sbs.artifact.describe import describe_rounded, describe_storage
from timm_sbs.artifact.files import CONFIG_NAME, artifact_bytes, read_config, read_license
from timm_sbs.artifact.ledger import PARTS, sizes
from timm_sbs.common.config import ArtifactConfig
from timm_sbs.common.entries import ENTRIES
from timm_sbs.common.results import earlier, number, text

__all__ = ['CARD_NAME', 'artifact_card']

CARD_NAME = 'README.md'
_TEMPLATE = Path(__file__).with_name('card.md')
_TAGS = ['image-classification', 'timm_sbs']
_PHASES = {
    'reconstruction': 'reconstruction', 'second_order': 'second-order reconstruction', 'distillation': 'distillation',
    'quantization': 'distillation, rounded'}

Results = Mapping[str, Any]
Table = list[tuple[str, ...]]


def artifact_card(folder: str | Path, repo_id: str) -> str:
    """The card of an artifact in repository 'user/name'. Every figure in it is one of the artifact's.

    Raises:
        SbsError: The folder is not an artifact.
    """
    config, pretrained_cfg = read_config(folder)
    results, total = config.results, artifact_bytes(folder)
    ledger = {**sizes(config.ledger), CONFIG_NAME: (Path(folder) / CONFIG_NAME).stat().st_size}
    name, license = repo_id.partition('/')[2], pretrained_cfg.get('license')
    registered = timm.get_pretrained_cfg(name) if name in ENTRIES else None
    entry = ENTRIES[name] if registered and registered.hf_hub_id == repo_id else None
    dataset = entry.dataset if entry else text(results, 'dataset')
    data = ModelCardData(
        license=license or 'unknown', library_name='timm', pipeline_tag='image-classification', tags=_TAGS,
        base_model=text(results, 'original_hub_id'), datasets=[dataset] if dataset else None,
        **_model_index(name, dataset, results))
    card = ModelCard.from_template(
        data, template_path=str(_TEMPLATE), name=name, source=name if entry else f'hf-hub:{repo_id}', base=config.base,
        generates=bool(config.generated), comparison=_comparison(results, ledger, total),
        ledger=[(part, f'{ledger[part]:,}') for part in (*PARTS, CONFIG_NAME) if ledger[part]],
        making=_making(config), license=license, own_license=read_license(folder) is not None,
        agreement=_percent(results, 'agreement') if number(results, 'top1', 100) is not None else None)
    return str(card).rstrip('\n') + '\n'


def _percent(results: Results, name: str) -> str | None:
    figure = number(results, name, 100)
    return None if figure is None else f'{figure:.2f} %'


def _told(results: Results, name: str, words: str) -> str | None:
    """A recorded number in words, or None."""
    figure = number(results, name)
    return None if figure is None else words.format(figure)


def _model_index(name: str, dataset: str | None, results: Results) -> dict[str, Any]:
    """The accuracy, in the words of the Hub's model-index, if it and its images are known, and these are the data
    set's own validation images."""
    top1 = number(results, 'top1', 100)
    if not dataset or top1 is None or text(results, 'measured_on'):
        return {}
    return {'model_name': name, 'eval_results': [EvalResult(
        task_type='image-classification', dataset_type=dataset, dataset_name=dataset, metric_type='accuracy',
        metric_name='top-1', metric_value=top1)]}


def _comparison(results: Results, ledger: Mapping[str, int], total: int) -> Table:
    parts = _told(results, 'images', '{:,.0f} images'), text(results, 'measured_on')
    where = ''.join(f', {part}' for part in parts if part)
    rows: Table = []
    if top1 := _percent(results, 'top1'):
        rows.append((f'top-1{where}', _percent(results, 'original_top1') or 'not measured', top1))
    if agreement := _percent(results, 'agreement'):
        same = 'same class as the original' if top1 else 'cosine similarity of the features'
        rows.append((f'{same}{where}', '', agreement))
    rows.append(('bytes', f"{ledger['original']:,} (float32 values)",
                 f"{total:,} (both files; {100 * total / max(1, ledger['original']):.1f} %)"))
    if (parameters := _told(results, 'original_parameters', '{:,.0f}')) and ledger['predictor_parameters']:
        rows.append(('parameters', parameters, f"{ledger['predictor_parameters']:,} of the predictor"))
    return rows


def _phases(results: Results) -> list[str]:
    """Of each run that an artifact has gone through, the first of them first."""
    found = [steps for phase, words in _PHASES.items()
             if (steps := _told(results, f'{phase}_steps', f'{{:,.0f}} steps of {words}')) and steps[0] != '0']
    if number(results, 'rounding_error') is not None:  # else weights were not rounded before the first step
        found.insert(0, f"rounding by {'second order' if number(results, 'statistics_images') else 'squared error'}")
    if before := earlier(results, 'before_quantization'):
        return [*_phases(before), 'rounding without data']
    started = earlier(results, 'started_from')
    return [*(_phases(started) if started else []), *([', '.join(found)] if found else [])]


def _making(config: ArtifactConfig) -> Table:
    results = config.results
    held_out = _told(results, 'holdout_divergence', 'divergence from the original {:.4f}')
    if held_out:
        held_out += f", agreement {_percent(results, 'holdout_agreement') or 'not measured'}"
        held_out += _told(results, 'holdout_images', ', on {:,.0f} training images') or ''
    versions = earlier(results, 'versions')
    rows = [
        ('phases', '; then '.join(_phases(results)) or 'not recorded'),
        ('error of the weights after reconstruction', _told(results, 'reconstruction_error', '{:.4f}')),
        ('error of the weights after rounding', _told(results, 'rounding_error', '{:.4f}')),
        ('images for statistics', _told(results, 'statistics_images', '{:,.0f}, without labels')),
        ('images without labels', text(results, 'unlabelled')),
        ('held-out images', held_out),
        ('synthetic images', text(results, 'data_free')),
        ('generated', f'{len(config.generated)} weights; ordering of their kernels: {config.ordering.order_over}'
         if config.generated else None),
        ('rounded', describe_rounded(config) if config.rounded else None),
        ('stored as', describe_storage(config)), ('seed', _told(results, 'seed', '{:.0f}')),
        ('versions', ', '.join(f'{name} {version}' for name in versions
                                if name.isprintable() and (version := text(versions, name)))),
        ('hardware', text(results, 'hardware'))]
    return [(label, value) for label, value in rows if value]
