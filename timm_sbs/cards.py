"""Model cards for the Hub: what an artifact's own config.json says and measured, and nothing else."""
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from timm_sbs.artifact import CONFIG_NAME, LICENSE_NAME, WEIGHTS_NAME, read_config
from timm_sbs.config import SbsConfig
from timm_sbs.errors import ArtifactError
from timm_sbs.models.entries import ENTRIES, Entry
from timm_sbs.sizes import PARTS

__all__ = ['CARD_NAME', 'artifact_card', 'entry_card']

CARD_NAME = 'README.md'
_TEMPLATE = Path(__file__).with_name('card.md')
# The recipe is for thousands of photographs; what it should have changed for a million (recipes/imagenet.yaml).
_WHOLE_IMAGENET = '--batch-size 256 --distillation-steps 40000 --train-size 160 224 --mixup 0 --workers 8 ' \
                  '--eval-interval 5000'
_TAGS = ['image-classification', 'timm_sbs']
_PHASES = {
    'reconstruction': 'reconstruction', 'second_order': 'second-order reconstruction', 'distillation': 'distillation',
    'quantization': 'quantization'}


def artifact_card(folder: Union[str, Path], repo_id: str) -> str:
    """The card of an artifact in repository 'user/name'. Every figure in it is one of the artifact's.

    Raises:
        SbsError: The folder is no artifact.
    """
    folder = Path(folder)
    config, pretrained_cfg = read_config(folder)
    if not (folder / WEIGHTS_NAME).is_file():
        raise ArtifactError(f"'{folder}' is incomplete: it has no {WEIGHTS_NAME}.")
    results = config.results
    name = repo_id.partition('/')[2]
    entry = ENTRIES.get(name)
    if entry and (entry.base != config.base or timm.get_pretrained_cfg(name).hf_hub_id != repo_id):
        entry = None
    dataset = entry.dataset if entry else results.get('dataset')
    config_bytes = (folder / CONFIG_NAME).stat().st_size
    data = _metadata(
        pretrained_cfg.get('license'), results.get('original_hub_id'), dataset, **_model_index(name, dataset, results))
    return _rendered(
        data, name=name, source=name if entry else f'hf-hub:{repo_id}', base=config.base, trained=True,
        comparison=_comparison(config, config_bytes),
        ledger=[(part, f'{config.sizes[part]:,}') for part in PARTS] + [(CONFIG_NAME, f'{config_bytes:,}')],
        making=_making(config), validations=results.get('validations'),
        last_top1=f"{results['last_top1']:.2f} %" if 'last_top1' in results else None,
        license=pretrained_cfg.get('license'), own_license=(folder / LICENSE_NAME).is_file(),
        agreement=f", on {results['images']:,} images as measured above" if 'images' in results else '')


def entry_card(name: str) -> str:
    """The card of a named entry whose predictor has not been trained: how to train it, and no figure."""
    entry = ENTRIES[name]
    data = _metadata(
        timm.get_pretrained_cfg(name).license, timm.get_pretrained_cfg(entry.base).hf_hub_id, entry.dataset)
    return _rendered(
        data, name=name, base=entry.base, pct=entry.pct, trained=False, command=_training_command(name, entry))


def _metadata(
        license: Optional[str], base_model: Optional[str], dataset: Optional[str], **results: Any) -> ModelCardData:
    return ModelCardData(
        license=license, library_name='timm', pipeline_tag='image-classification', tags=_TAGS, base_model=base_model,
        datasets=[dataset] if dataset else None, **results)


def _training_command(name: str, entry: Entry) -> str:
    return (f'accelerate launch train_sbs.py --recipe imagenet --model {entry.base} --pct {entry.pct} \\\n'
            f'    {_WHOLE_IMAGENET} \\\n    --data-dir imagenet --output {name}')


def _rendered(data: ModelCardData, **values: Any) -> str:
    return str(ModelCard.from_template(data, template_path=str(_TEMPLATE), **values)).rstrip('\n') + '\n'


def _model_index(name: str, dataset: Optional[str], results: Mapping[str, Any]) -> Dict[str, Any]:
    """The accuracy, in the words of the Hub's model-index, if it and its images are known, and these are the data
    set's own validation images."""
    if not dataset or 'top1' not in results or 'measured_on' in results:
        return {}
    return {'model_name': name, 'eval_results': [EvalResult(
        task_type='image-classification', dataset_type=dataset, dataset_name=dataset, metric_type='accuracy',
        metric_name='top-1', metric_value=results['top1'])]}


def _comparison(config: SbsConfig, config_bytes: int) -> List[Tuple[str, str, str]]:
    results, sizes = config.results, config.sizes
    total = sizes['file'] + config_bytes
    rows = []
    if 'top1' in results:
        measured_on = f", {results['measured_on']}" if 'measured_on' in results else ''
        rows.append((f"top-1, {results['images']:,} images{measured_on}", f"{results['original_top1']:.2f} %",
                     f"{results['top1']:.2f} %"))
    rows.append(('bytes', f"{sizes['original']:,} (float32 values)",
                 f"{total:,} (both files; {100 * total / sizes['original']:.1f} %)"))
    if 'original_parameters' in results:
        rows.append(('parameters', f"{results['original_parameters']:,}",
                     f"{sizes['predictor_parameters']:,} of the predictor"))
    return rows


def _making(config: SbsConfig) -> List[Tuple[str, str]]:
    results = config.results
    words = dict(_PHASES)
    if 'quantization_seconds' not in results:  # as rounding without images has
        words['quantization'] = 'distillation, rounded'
    steps = [f"{results[f'{phase}_steps']:,} steps of {text}" for phase, text in words.items()
             if results.get(f'{phase}_steps')]
    rows = [('phases', ', '.join(steps) or 'not recorded')]
    if 'reconstruction_error' in results:
        rows.append(('error of the weights after reconstruction', f"{results['reconstruction_error']:.4f}"))
    if 'statistics_images' in results:
        rows.append(('images of the statistics', f"{results['statistics_images']:,}, without their labels"))
    if 'unlabelled' in results:
        rows.append(('images without labels', results['unlabelled']))
    if 'data_free' in results:
        rows.append(('images', f"synthetic ({results['data_free']})"))
    rows.append(('generated', f'{len(config.generated)} weights; ordering of their kernels: '
                              f'{config.ordering.granularity}'))
    if config.quantization:
        rows.append(('stored as', 'integers of ' + ', '.join(f'{b:.2f}' for b in config.quantization.layer_bits)
                     + f' bits by layer, kept tensors of {config.quantization.kept_bits} bits, entropy-coded'))
    else:
        rows.append(('stored as', config.storage_dtype))
    if 'seed' in results:
        rows.append(('seed', str(results['seed'])))
    if 'versions' in results:
        rows.append(('versions', ', '.join(f'{name} {version}' for name, version in results['versions'].items())))
    if 'hardware' in results:
        rows.append(('hardware', results['hardware']))
    return rows
