"""Model cards for the Hub: what an artifact's own config.json says and measured, and nothing else."""
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import PretrainedCfg

from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, ArtifactFiles
from timm_sbs.artifact.folder import written_ledger
from timm_sbs.common.config import ArtifactConfig
from timm_sbs.common.entries import ENTRIES
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.results import Ledger, Results

__all__ = ['CARD_NAME', 'artifact_card']

CARD_NAME = 'README.md'
_TEMPLATE = Path(__file__).with_name('card.md')
_TAGS = ['image-classification', 'timm_sbs']
_PHASES = {
    'reconstruction': 'reconstruction', 'second_order': 'second-order reconstruction', 'distillation': 'distillation',
    'quantization': 'quantization'}


def artifact_card(folder: str | Path, repo_id: str) -> str:
    """The card of an artifact in repository 'user/name'. Every figure in it is one of the artifact's.

    Raises:
        SbsError: The folder is no artifact.
    """
    files = ArtifactFiles.of(folder)
    config, pretrained_cfg = files.parsed()
    if files.weights_bytes is None:
        raise ArtifactError(f"'{folder}' is incomplete: it has no {WEIGHTS_NAME}.")
    results, sizes = config.results, written_ledger(config)
    name = repo_id.partition('/')[2]
    entry = ENTRIES.get(name)
    if entry and (entry.base != config.base or _described(name).hf_hub_id != repo_id):
        entry = None
    dataset = entry.dataset if entry else results.dataset
    config_bytes = len(files.config)
    data = _metadata(
        pretrained_cfg.get('license') or 'unknown', results.original_hub_id, dataset,
        **_model_index(name, dataset, results))
    return _rendered(
        data, name=name, source=name if entry else f'hf-hub:{repo_id}', base=config.base,
        generates=bool(config.generated),
        comparison=_comparison(results, sizes, config_bytes),
        ledger=[(part, f'{size:,}') for part, size in {**sizes.parts, CONFIG_NAME: config_bytes}.items()],
        making=_making(config), validations=results.validations or 'several',
        last_top1=_percent(results.last_top1) if results.last_top1 is not None else None,
        license=pretrained_cfg.get('license'), own_license=files.license_text() is not None,
        agreement=_percent(results.agreement) if None not in (results.agreement, results.top1) else None)


def _described(name: str) -> PretrainedCfg:
    """timm's description of a model's weights; an empty one for a model without."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _metadata(
        license: str | None, base_model: str | None, dataset: str | None, **results: Any) -> ModelCardData:
    return ModelCardData(
        license=license, library_name='timm', pipeline_tag='image-classification', tags=_TAGS, base_model=base_model,
        datasets=[dataset] if dataset else None, **results)


def _rendered(data: ModelCardData, **values: Any) -> str:
    return str(ModelCard.from_template(data, template_path=str(_TEMPLATE), **values)).rstrip('\n') + '\n'


def _percent(figure: float | None) -> str:
    return 'not measured' if figure is None else f'{figure:.2f} %'


def _model_index(name: str, dataset: str | None, results: Results) -> dict[str, Any]:
    """The accuracy, in the words of the Hub's model-index, if it and its images are known, and these are the data
    set's own validation images."""
    if not dataset or results.top1 is None or results.measured_on:
        return {}
    return {'model_name': name, 'eval_results': [EvalResult(
        task_type='image-classification', dataset_type=dataset, dataset_name=dataset, metric_type='accuracy',
        metric_name='top-1', metric_value=results.top1)]}


def _comparison(results: Results, sizes: Ledger, config_bytes: int) -> list[tuple[str, str, str]]:
    total = sizes.file + config_bytes
    rows = []
    images = f', {results.images:,} images' if results.images is not None else ''
    where = images + (f', {results.measured_on}' if results.measured_on else '')
    if results.top1 is not None:
        rows.append((f'top-1{where}', _percent(results.original_top1), _percent(results.top1)))
    if results.agreement is not None:
        same = 'same class as the original' if results.top1 is not None else 'cosine similarity of the features'
        rows.append((f'{same}{where}', '', _percent(results.agreement)))
    rows.append(('bytes', f'{sizes.original:,} (float32 values)',
                 f'{total:,} (both files; {100 * total / sizes.original:.1f} %)'))
    if results.original_parameters is not None and sizes.predictor_parameters:
        rows.append(('parameters', f'{results.original_parameters:,}',
                     f'{sizes.predictor_parameters:,} of the predictor'))
    return rows


def _trained_on_images(results: Results) -> bool:
    """Whether the last run took steps on images. Quantization has its time only where it took others."""
    rounded = results.quantization_steps if results.quantization_seconds is None else 0
    return bool(results.distillation_steps or rounded)


def _phases(results: Results) -> list[str]:
    """Of each run that an artifact has gone through, the first of them first."""
    words = dict(_PHASES)
    if results.quantization_seconds is None:  # as rounding without images has
        words['quantization'] = 'distillation, rounded'
    steps = [f"{getattr(results, f'{phase}_steps'):,} steps of {text}" for phase, text in words.items()
             if getattr(results, f'{phase}_steps')]
    if results.rounding_error is not None:  # else weights were not rounded before the first step
        steps.insert(0, 'rounding by second order' if results.statistics_images else 'rounding by squared errors')
    if results.before_quantization:
        return [*_phases(results.before_quantization), 'rounding without data']
    earlier = _phases(results.started_from) if results.started_from else []
    return [*earlier, *([', '.join(steps)] if steps else [])]


def _making(config: ArtifactConfig) -> list[tuple[str, str]]:
    results = config.results

    def told(figure: Any, text: str) -> str | None:
        return None if figure is None else text.format(figure)

    held_out = None if results.holdout_divergence is None else (
        f'{results.holdout_images or 0:,} training images that were held out: divergence from the original '
        f'{results.holdout_divergence:.4f}, agreement {_percent(results.holdout_agreement)}')
    versions = ', '.join(f'{name} {version}' for name, version in (results.versions or {}).items())
    rows = [
        ('phases', '; then '.join(_phases(results)) or 'not recorded'),
        ('error of the weights after reconstruction', told(results.reconstruction_error, '{:.4f}')),
        ('error of the weights after rounding', told(results.rounding_error, '{:.4f}')),
        ('images of the statistics', told(results.statistics_images, '{:,}, without their labels')),
        ('images without labels', results.unlabelled),
        ('chosen by' if _trained_on_images(results) else 'measured on', held_out),
        ('images', told(results.data_free, 'synthetic ({})')),
        ('generated', f'{len(config.generated)} weights; ordering of their kernels: {config.ordering.order_over}'
         if config.generated else None),
        ('rounded', config.rounded_words if config.rounded else None),
        ('stored as', config.storage_words), ('seed', told(results.seed, '{}')), ('versions', versions or None),
        ('hardware', results.hardware)]
    return [(label, value) for label, value in rows if value is not None]
