"""A result that lost its function is said, by what was measured: predictions first, else errors of the weights."""
import pytest

from timm_sbs.artifact.lost import lost_function


@pytest.mark.parametrize('lost, results', [
    (False, {}), (True, {'agreement': 79.}), (False, {'agreement': 81., 'reconstruction_error': 0.5}),
    (True, {'holdout_agreement': 40., 'reconstruction_error': 0.01}),
    (False, {'holdout_agreement': 40., 'agreement': 95.}),  # all test images count more than some training images
    (False, {'reconstruction_error': 0.08}), (True, {'reconstruction_error': 0.12}),
    (False, {'rounding_error': 0.04}), (True, {'rounding_error': 0.08}),
    (False, {'reconstruction_error': 0.12, 'statistics_images': 500}),  # errors are where predictions do not change
    (False, {'quantization_error': 0.05, 'before_quantization': {'reconstruction_error': 0.04}}),
    (True, {'quantization_error': 0.05, 'before_quantization': {'reconstruction_error': 0.07}}),
    (False, {'quantization_error': 0.05, 'before_quantization': {'reconstruction_error': 0.2, 'agreement': 96.}}),
    (True, {'quantization_error': 0.15, 'before_quantization': {'agreement': 96.}}),
    (False, {'reconstruction_error': 'large', 'agreement': None})])  # what is not a number was not measured
def test_what_was_measured_decides(lost, results):
    assert bool(lost_function(results)) == lost
