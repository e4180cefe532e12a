"""What is told of an artifact, and the warning where it has lost what its original does."""
import pytest
from conftest import ROUNDED, SHIPPED, file_bytes

import timm_sbs
from timm_sbs.artifact.describe import lost_function
from timm_sbs.artifact.folder import shipped_folder


@pytest.mark.parametrize('name', [SHIPPED, ROUNDED[0]])
def test_the_ledger_adds_up_to_what_ls_says(name):
    told = timm_sbs.load(name).describe()
    rows = [line for line in told.splitlines() if ' bytes ' in line]
    counts = [int(row.split(' bytes')[0].split()[-1].replace(',', '')) for row in rows]
    assert counts[-1] == file_bytes(shipped_folder(name)) == sum(counts[:-1])
    assert 'bsd-2-clause' in told and 'top-1' in told and 'resnet20_cifar10' in told


def test_nothing_tells_of_a_predictor_where_there_is_none():
    artifact = timm_sbs.load(ROUNDED[0])
    told, card = artifact.describe(), artifact.card('user/any')
    assert 'rounded    all weights\n' in told and 'integers, stored tensors of 6 bits' in told
    assert '- rounded: all weights\n' in card
    for word in ('predictor', 'generat', 'ordering', 'widths', 'SBS'):
        assert word not in told and word not in card, word


def test_agreement_is_told_where_no_accuracy_was_measured(small_artifact):
    told = small_artifact.with_results({'holdout_agreement': 97.25}).describe()
    assert 'agreement  97.25 % on held-out training images' in told


@pytest.mark.parametrize('lost, results', [
    (False, {}), (True, {'agreement': 79.}), (False, {'agreement': 81., 'reconstruction_error': 0.5}),
    (True, {'holdout_agreement': 40., 'reconstruction_error': 0.01}),
    (False, {'holdout_agreement': 40., 'agreement': 95.}),  # all test images count more than some training images
    (False, {'reconstruction_error': 0.08}), (True, {'reconstruction_error': 0.12}),
    (False, {'rounding_error': 0.04}), (True, {'rounding_error': 0.08}),
    (False, {'reconstruction_error': 0.12, 'statistics_images': 500}),  # errors are where predictions do not change
    (False, {'quantization_error': 0.05, 'reconstruction_error': 0.04}),
    (True, {'quantization_error': 0.15, 'reconstruction_error': 0.04}),
    (False, {'reconstruction_error': 'large', 'agreement': None})])  # what is not a number was not measured
def test_what_was_measured_decides_whether_the_function_is_lost(lost, results):
    assert bool(lost_function(results)) == lost
