"""The design: what is generated, how large the predictor is, and the bytes of the artifact, before any training."""
import pytest
import timm
import torch
from conftest import fit_quickly, started

from timm_sbs.common.errors import ConfigError, TargetError
from timm_sbs.training.design.sizing import RESULTS_BYTES, design
from timm_sbs.training.settings import Target

GRID = dict(order_over='axes', linear_layers=4)


def file_bytes(ledger):
    """Of model.safetensors."""
    return ledger['total'] - ledger['config.json']


@pytest.mark.parametrize('target', [{}, dict(storage_dtype='float32', **GRID)])
def test_floats_are_forecast_exactly(small_model, target):
    forecast = design(small_model, Target(**target)).forecast(small_model)
    sizes = fit_quickly(small_model, steps=1, pct=20., **target).ledger()
    assert abs(file_bytes(forecast) - file_bytes(sizes)) <= 8  # the orderings' own bits
    assert 0 < forecast['config.json'] - sizes['config.json'] < RESULTS_BYTES + 100


def test_a_quantized_predictor_is_forecast_to_within_some_per_cent(small_model):
    forecast = design(small_model, Target(bits=4.5, **GRID)).forecast(small_model)
    sizes = fit_quickly(small_model, steps=30, pct=20., bits=4.5, **GRID).ledger()
    assert file_bytes(forecast) == pytest.approx(file_bytes(sizes), rel=0.05) and forecast['kept'] == sizes['kept']


def test_rounded_weights_fill_the_bytes_that_are_asked_for(small_model):
    chosen = design(small_model, Target(bytes='30k'))
    assert not chosen.specs and len(chosen.rounded) == 8
    assert 0.95 * 30_000 < chosen.forecast(small_model)['total'] <= 30_000
    with pytest.raises(ConfigError, match=r'1,500 bytes are too few: with about 0\.5 bits per weight both files take'):
        design(small_model, Target(bytes=1500))


def test_a_percentage_is_used_and_kept(resnet20):
    total = sum(p.numel() for p in resnet20.parameters())
    for pct in (5., 20., 50.):
        assert 0.97 * pct < 100 * design(resnet20, Target(pct=pct)).num_parameters / total <= pct


def test_predictors_that_make_no_sense_are_refused(small_model):
    with pytest.raises(ConfigError, match='7 parameters are too few'):
        design(small_model, Target(pct=0.01))
    with pytest.raises(ConfigError, match='for the 18,432 weights that it would generate saves nothing'):
        design(small_model, Target(pct=50., keep=('layer3.*',)))
    with pytest.raises(TargetError, match='has no weight to generate'):
        design(small_model, Target(keep=('*',)))


def test_fields_of_the_target_reach_the_generator(small_model):
    chosen = design(small_model, Target(
        order_over='filter', activation='sine', linear_layers=3, bandwidth=2., bandwidth_exponent=0.25,
        num_frequencies=16, layer_bandwidth=1., keep=('layer1.*',), max_positions=500, pct=20.), seed=5)
    generator = chosen.generator
    assert (generator.ordering.order_over, generator.ordering.coordinates) == ('filter', 'grid')
    encoding = generator.encoding
    assert (encoding.num_frequencies, encoding.layer_bandwidth, encoding.bandwidth, encoding.seed) == (16, 1., 2., 5)
    assert (generator.predictor.linear_layers, generator.predictor.activation) == (3, 'sine')
    assert not any(spec.name.startswith('layer1') for spec in chosen.specs)
    folded = started(small_model, max_positions=500).generator
    assert max(len(group.coordinates) // len(group.specs) for group in folded.groups) <= 500


def test_large_networks_have_few_positions_in_a_layer(small_model):
    with torch.device('meta'):
        large = timm.create_model('resnet18')
    assert design(large).generator.ordering.max_positions == 1024
    assert design(large, Target(max_positions=0)).generator.ordering.max_positions == 0
    assert design(small_model).generator.ordering.max_positions == 0


def test_what_is_started_has_the_original_s_other_tensors(small_model):
    artifact, state = started(small_model, bits=5.), small_model.state_dict()
    assert list(artifact.rounded) == ['conv1.weight', 'linear.weight']
    for name, tensor in {**artifact.kept, **artifact.rounded}.items():
        assert torch.equal(tensor, state[name]) and tensor.data_ptr() != state[name].data_ptr()
