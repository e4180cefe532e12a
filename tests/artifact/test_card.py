"""Cards say what their artifacts say, and the client of the Hub understands them."""
import dataclasses
import importlib.util

import pytest
from conftest import PREDICTORS, REPOSITORY, SHIPPED, described, file_bytes
from huggingface_hub import ModelCard

import timm_sbs
from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.common.entries import ENTRIES

CARDS = REPOSITORY / 'hub_cards'
spec = importlib.util.spec_from_file_location('make_cards', REPOSITORY / 'tests' / 'data' / 'make_cards.py')
make_cards = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_cards)


def card_of(artifact, results):
    return artifact.with_results(results).card('user/any')


def test_there_is_a_card_for_each_entry_and_no_other():
    """Run tests/data/make_cards.py after an artifact has changed."""
    assert {path.stem: path.read_text() for path in CARDS.iterdir()} == make_cards.cards()
    assert set(make_cards.cards()) == set(ENTRIES)


@pytest.mark.parametrize('name', PREDICTORS)
def test_figures_and_metadata(name):
    card = ModelCard.load(CARDS / f'{name}.md')
    results = timm_sbs.load(name).results
    [result] = card.data.eval_results
    assert result.metric_value == results['top1'] and result.dataset_type == 'cifar10'
    assert card.data.library_name == 'timm' and 'timm_sbs' in card.data.tags and card.data.license == 'bsd-2-clause'
    assert f"{results['top1']:.2f} %" in card.text and f"{results['original_top1']:.2f} %" in card.text
    assert f'{file_bytes(shipped_folder(name)):,} (both files' in card.text


def test_a_users_artifact_is_loaded_by_its_repository(small_artifact):
    card = small_artifact.card('user/mine')
    assert "timm.create_model('hf-hub:user/mine', pretrained=True)" in card
    data = ModelCard(card).data
    assert data.eval_results is None and 'top-1' not in card  # nothing was measured
    assert data.base_model is None and 'base_model_relation' not in data
    borrowed = small_artifact.card(f'user/{SHIPPED}')
    assert f"'hf-hub:user/{SHIPPED}'" in borrowed  # another one's repository is not the entry's


def test_what_the_trainer_records_is_told(small_artifact):
    card = ModelCard(card_of(small_artifact, {
        'original_hub_id': 'timm/resnet18.a1_in1k', 'dataset': 'flowers', 'top1': 81.25, 'original_top1': 84.5,
        'images': 400, 'seed': 3, 'distillation_steps': 1200, 'data_free': True, 'unlabelled': 'a, b',
        'holdout_images': 2000, 'holdout_divergence': 0.01234, 'holdout_agreement': 97.25}))
    assert (card.data.base_model, card.data.base_model_relation) == ('timm/resnet18.a1_in1k', 'quantized')
    assert card.data.datasets == ['flowers']
    assert card.data.eval_results[0].metric_value == 81.25
    for text in ('84.50 %', '81.25 %', '1,200 steps of distillation', 'seed: 3',
                 'synthetic images: inverted from the original', 'images without labels: a, b',
                 'divergence from the original 0.0123, agreement 97.25 %, on 2,000 training images'):
        assert text in card.text, text


def test_agreement_is_shown_where_it_is_known(small_artifact):
    results = {'top1': 80., 'original_top1': 90., 'images': 1300, 'measured_on': 'an easy sample'}
    card = card_of(small_artifact, {**results, 'agreement': 94.25})
    assert '| same class as the original, 1,300 images, an easy sample |  | 94.25 % |' in card
    assert 'those of the original: the same class for 94.25 % of the images.' in card
    card = card_of(small_artifact, results)
    assert 'those of the original.\n' in card and 'same class' not in card
    assert ModelCard(card).data.eval_results is None  # on other images than the data set's own
    assert 'cosine similarity' in card_of(small_artifact, {'agreement': 94.25})


@pytest.mark.parametrize('results, says', [
    ({'rounding_error': 0.1}, 'rounding by squared error'),
    ({'rounding_error': 0.1, 'statistics_images': 50, 'quantization_steps': 8},
     'rounding by second order, 8 steps of distillation, rounded'),
    ({'started_from': {'rounding_error': 0.1, 'statistics_images': 50}, 'quantization_steps': 8},
     'rounding by second order; then 8 steps of distillation, rounded'),
    ({'reconstruction_steps': 9, 'second_order_steps': 0}, '9 steps of reconstruction'),
    ({}, 'not recorded')])
def test_phases_of_a_run_and_of_that_it_started_from(small_artifact, results, says):
    assert f'- phases: {says}\n' in card_of(small_artifact, results)


def test_text_from_a_file_is_text(small_artifact):
    """Nothing in it is markup, or longer than a line."""
    card = card_of(small_artifact, {
        'hardware': '<img src=x onerror=alert(1)> | [a](http://b.c) www.d.e', 'unlabelled': '**bold** `code` _it_ a_b',
        'images': 3, 'top1': 80., 'measured_on': 'x | y', 'versions': {'<b>': '1|2', 'a' * 999: '\x1b[2J', **{
            f'package{i}': '1' for i in range(1000)}}})
    assert r'- hardware: \<img src=x onerror=alert(1)\> \| \[a\](http\://b.c) www\.d.e' in card
    assert r'- images without labels: \*\*bold\*\* \`code\` \_it\_ a_b' in card
    assert r'| top-1, 3 images, x \| y | not measured | 80.00 % |' in card
    assert r'- versions: \<b\> 1\|2, ' in card and '\x1b' not in card and len(card) < 5000


def test_a_licence_is_shortened_where_it_is_shown(small_artifact):
    artifact = dataclasses.replace(
        described(small_artifact, license='<b>' + 'x' * 4000), license_text='All rights reserved')
    assert r'The licence, \<b\>xxx' in artifact.card('user/any')
    assert len(artifact.card('user/any')) < 5000 and len(artifact.describe()) < 2000
