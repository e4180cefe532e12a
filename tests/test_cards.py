"""Cards say what their artifacts say; the client of the Hub understands them; their snippets run."""
import dataclasses
import importlib.util
import re

import pytest
import timm
import timm_sbs
from conftest import ALL_SHIPPED, IMAGENET_ALL, REPOSITORY, SHIPPED
from huggingface_hub import ModelCard

from timm_sbs import SbsError
from timm_sbs.artifact import load_artifact, save_artifact
from timm_sbs.cards import artifact_card
from timm_sbs.models import embedded_folder
from timm_sbs.models.entries import ENTRIES

CARDS = REPOSITORY / 'hub_cards'
spec = importlib.util.spec_from_file_location('make_cards', REPOSITORY / 'tests' / 'data' / 'make_cards.py')
make_cards = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_cards)


def snippets(card, language):
    return re.findall(rf'```{language}\n(.*?)```', card, flags=re.DOTALL)


def test_there_is_a_card_for_each_entry_and_no_other():
    assert {path.stem for path in CARDS.iterdir()} == set(ENTRIES)


@pytest.mark.parametrize('name', ENTRIES)
def test_cards_are_those_of_the_artifacts(name):
    """Run tests/data/make_cards.py after an artifact has changed."""
    assert (CARDS / f'{name}.md').read_text() == make_cards.card_of(name)


@pytest.mark.parametrize('name', ALL_SHIPPED)
def test_figures_and_metadata_of_trained_ones(name):
    card = ModelCard.load(CARDS / f'{name}.md')
    results = load_artifact(embedded_folder(name)).config.results
    [result] = card.data.eval_results
    assert result.metric_value == results['top1'] and result.dataset_type == 'cifar10'
    assert card.data.library_name == 'timm' and 'timm_sbs' in card.data.tags and card.data.license == 'bsd-2-clause'
    assert f"{results['top1']:.2f} %" in card.text and f"{results['original_top1']:.2f} %" in card.text
    size = sum(path.stat().st_size for path in embedded_folder(name).iterdir())
    assert f'{size:,} (both files' in card.text


@pytest.mark.parametrize('name', sorted(set(ENTRIES) - {*ALL_SHIPPED, *IMAGENET_ALL}))
def test_untrained_ones_have_a_command_and_no_figure(name, train_sbs):
    card = ModelCard.load(CARDS / f'{name}.md')
    assert 'has not been trained yet' in card.text and card.data.eval_results is None
    assert not re.search(r'\d\.\d+ %', card.text)
    assert card.data.base_model == timm.get_pretrained_cfg(ENTRIES[name].base).hf_hub_id
    [command] = snippets(card.text, 'bash')
    words = command.replace('\\\n', ' ').split()
    args = train_sbs.parse_args(train_sbs.build_parser(), words[words.index('train_sbs.py') + 1:])
    assert (args.model, args.pct) == (ENTRIES[name].base, ENTRIES[name].pct)


def test_snippet_runs():
    [snippet] = snippets((CARDS / f'{SHIPPED}.md').read_text(), 'python')
    scope = {}
    exec(snippet, scope)
    assert scope['model'].num_classes == 10


def test_a_users_predictor_is_loaded_by_its_repository(small_folder):
    card = artifact_card(small_folder, 'user/mine')
    assert "timm.create_model('hf-hub:user/mine', pretrained=True)" in card
    assert ModelCard(card).data.eval_results is None and 'top-1' not in card  # nothing was measured
    borrowed = artifact_card(small_folder, f'user/{SHIPPED}')
    assert f"'hf-hub:user/{SHIPPED}'" in borrowed  # another one's repository is not the entry's


def test_what_the_trainer_records_is_told(small_artifact, tmp_path):
    results = {
        'original_hub_id': 'timm/resnet18.a1_in1k', 'dataset': 'flowers', 'top1': 81.25, 'original_top1': 84.5,
        'images': 400, 'seed': 3, 'distillation_steps': 1200, 'data_free': 'noise'}
    config = dataclasses.replace(small_artifact.config, results=results)
    save_artifact(tmp_path, dataclasses.replace(small_artifact, config=config))
    card = ModelCard(artifact_card(tmp_path, 'user/flowers'))
    assert card.data.base_model == 'timm/resnet18.a1_in1k' and card.data.datasets == ['flowers']
    assert card.data.eval_results[0].metric_value == 81.25
    for text in ('84.50 %', '81.25 %', '1,200 steps of distillation', 'synthetic (noise)', 'seed: 3'):
        assert text in card.text, text


def test_rounding_on_images_is_told_as_the_distillation_that_it_is(small_artifact, tmp_path):
    for results, says in (
            ({'quantization_steps': 1000, 'unlabelled': 'a, b'}, '1,000 steps of distillation, rounded'),
            ({'quantization_steps': 300, 'quantization_seconds': 5.}, '300 steps of quantization')):
        config = dataclasses.replace(small_artifact.config, results=results)
        save_artifact(tmp_path, dataclasses.replace(small_artifact, config=config))
        card = artifact_card(tmp_path, 'user/any')
        assert says in card and ('images without labels: a, b' in card) == ('unlabelled' in results)


def test_no_card_without_an_artifact(tmp_path, small_folder):
    with pytest.raises(SbsError, match='no predictor'):
        artifact_card(tmp_path, 'user/none')
    (small_folder / 'model.safetensors').unlink()
    with pytest.raises(SbsError, match='incomplete'):
        artifact_card(small_folder, 'user/none')
    assert timm_sbs.push_to_hub
