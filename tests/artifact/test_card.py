"""Cards say what their artifacts say; the client of the Hub understands them; their snippets run."""
import importlib.util
import re

import pytest
from conftest import ALL_SHIPPED, REPOSITORY, SHIPPED
from huggingface_hub import ModelCard

import timm_sbs
from timm_sbs import SbsError
from timm_sbs.artifact.card import artifact_card
from timm_sbs.artifact.describe import describe_artifact
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact, save_artifact
from timm_sbs.common.entries import ENTRIES

CARDS = REPOSITORY / 'hub_cards'
spec = importlib.util.spec_from_file_location('make_cards', REPOSITORY / 'tests' / 'data' / 'make_cards.py')
make_cards = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_cards)


def snippets(card, language):
    return re.findall(rf'```{language}\n(.*?)```', card, flags=re.DOTALL)


def test_there_is_a_card_for_each_entry_and_no_other():
    assert {path.stem for path in CARDS.iterdir()} == set(ENTRIES)


@pytest.mark.parametrize('name', make_cards.cards())
def test_cards_are_those_of_the_artifacts(name):
    """Run tests/data/make_cards.py after an artifact has changed."""
    assert (CARDS / f'{name}.md').read_text() == make_cards.cards()[name]


@pytest.mark.parametrize('name', ALL_SHIPPED)
def test_figures_and_metadata(name):
    card = ModelCard.load(CARDS / f'{name}.md')
    results = load_artifact(shipped_folder(name)).config.results
    [result] = card.data.eval_results
    assert result.metric_value == results['top1'] and result.dataset_type == 'cifar10'
    assert card.data.library_name == 'timm' and 'timm_sbs' in card.data.tags and card.data.license == 'bsd-2-clause'
    assert f"{results['top1']:.2f} %" in card.text and f"{results['original_top1']:.2f} %" in card.text
    size = sum(path.stat().st_size for path in shipped_folder(name).iterdir())
    assert f'{size:,} (both files' in card.text


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
    save_artifact(tmp_path, small_artifact.with_results(results))
    card = ModelCard(artifact_card(tmp_path, 'user/flowers'))
    assert card.data.base_model == 'timm/resnet18.a1_in1k' and card.data.datasets == ['flowers']
    assert card.data.eval_results[0].metric_value == 81.25
    for text in ('84.50 %', '81.25 %', '1,200 steps of distillation', 'synthetic (noise)', 'seed: 3'):
        assert text in card.text, text


def test_agreement_is_shown_where_it_is_known(small_artifact, tmp_path):
    results = {'top1': 80., 'original_top1': 90., 'images': 1300, 'measured_on': 'an easy sample'}
    save_artifact(tmp_path, small_artifact.with_results({**results, 'agreement': 94.25}))
    card = artifact_card(tmp_path, 'user/any')
    assert '| same class as the original, 1,300 images, an easy sample |  | 94.25 % |' in card
    assert '- It predicts nearly, but not exactly, what the original does: the same class for 94.25 % of the' in card
    save_artifact(tmp_path, small_artifact.with_results(results))
    card = artifact_card(tmp_path, 'user/any')
    assert '- It predicts nearly, but not exactly, what the original does.\n- Intended' in card
    assert 'same class' not in card


@pytest.mark.parametrize('steps, says', [
    ({'distillation_steps': 100}, 'chosen by'), ({'quantization_steps': 100}, 'chosen by'),
    ({'quantization_steps': 100, 'quantization_seconds': 5.}, 'measured on'), ({}, 'measured on')])
def test_what_chose_the_artifact_is_told_where_steps_on_images_left_a_choice(small_artifact, tmp_path, steps, says):
    held_out = {'holdout_images': 2000, 'holdout_divergence': 0.01234, 'holdout_agreement': 97.25}
    save_artifact(tmp_path, small_artifact.with_results({**held_out, **steps}))
    card = artifact_card(tmp_path, 'user/any')
    assert (f'- {says}: 2,000 training images that were held out: divergence from the original 0.0123, agreement '
            f'97.25 %\n') in card
    assert 'top-1' not in card and 'validation images' not in card
    assert 'agreement  97.25 % on held-out training images' in describe_artifact(tmp_path)


def test_rounding_on_images_is_told_as_the_distillation_that_it_is(small_artifact, tmp_path):
    for results, says in (
            ({'quantization_steps': 1000, 'unlabelled': 'a, b'}, '1,000 steps of distillation, rounded'),
            ({'quantization_steps': 300, 'quantization_seconds': 5.}, '300 steps of quantization')):
        save_artifact(tmp_path, small_artifact.with_results(results))
        card = artifact_card(tmp_path, 'user/any')
        assert says in card and ('images without labels: a, b' in card) == ('unlabelled' in results)


@pytest.mark.parametrize('results, says', [
    ({'rounding_error': 0.1}, 'rounding by squared errors'),
    ({'rounding_error': 0.1, 'statistics_images': 50, 'quantization_steps': 8},
     'rounding by second order, 8 steps of distillation, rounded'),
    ({'quantization_steps': 8}, '8 steps of distillation, rounded'),
    ({'started_from': {'rounding_error': 0.1, 'statistics_images': 50}, 'quantization_steps': 8},
     'rounding by second order; then 8 steps of distillation, rounded'),
    ({'started_from': {'rounding_error': 0.1, 'statistics_images': 50}}, 'rounding by second order'),
    ({'started_from': {'started_from': {'rounding_error': 0.1}, 'quantization_steps': 9}, 'quantization_steps': 8},
     'rounding by squared errors; then 9 steps of distillation, rounded; then 8 steps of distillation, rounded'),
    ({}, 'not recorded')])
def test_phases_of_a_run_and_of_those_that_it_started_from(small_artifact, tmp_path, results, says):
    save_artifact(tmp_path, small_artifact.with_results(results))
    assert f'- phases: {says}\n' in artifact_card(tmp_path, 'user/any')


def test_no_card_without_an_artifact(tmp_path, small_folder):
    with pytest.raises(SbsError, match='no predictor'):
        artifact_card(tmp_path, 'user/none')
    (small_folder / 'model.safetensors').unlink()
    with pytest.raises(SbsError, match='incomplete'):
        artifact_card(small_folder, 'user/none')
    assert timm_sbs.push_to_hub
