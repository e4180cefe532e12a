import pytest
from conftest import fit_quickly

from timm_sbs.artifact.folder import artifact_ledger
from timm_sbs.codec import tensor_file
from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.training.design.forecast import RESULTS_BYTES
from timm_sbs.training.design.sizing import design

GRID = dict(ordering=OrderingConfig('axes', 'grid'), linear_layers=4)


@pytest.mark.parametrize('settings', [{}, dict(storage_dtype='float32', **GRID)])
def test_floats_are_forecast_exactly(resnet20, settings):
    forecast = design(resnet20, **settings).forecast(resnet20)
    sizes = artifact_ledger(fit_quickly(resnet20, steps=1, pct=20., **settings))
    assert abs(forecast['file'] - sizes['file']) <= 8  # the orderings' own bits
    assert 0 < forecast['config'] - sizes['config'] < RESULTS_BYTES + 100


@pytest.mark.parametrize('bits', [3.5, 5., 7.])
def test_packed_ones_to_within_some_per_cent(resnet20, bits):
    forecast = design(resnet20, bits=bits, **GRID).forecast(resnet20)
    sizes = artifact_ledger(fit_quickly(resnet20, steps=100, pct=20., bits=bits, **GRID))
    assert forecast['file'] == pytest.approx(sizes['file'], rel=0.03)
    assert forecast['kept'] == sizes['kept']


@pytest.mark.parametrize('budget, settings', [
    (100_000, {}), (171_000, {}), (300_000, {}), (49_000, dict(bits=5., **GRID)), (64_000, dict(bits=4.5, **GRID))])
def test_a_budget_of_bytes_is_used_and_kept(resnet20, budget, settings):
    total = artifact_ledger(fit_quickly(resnet20, steps=1, max_bytes=budget, **settings))['total']
    assert 0.93 * budget < total <= budget  # some is left for results, and for weights that take more than a forecast


@pytest.mark.parametrize('max_bytes', [None, 100_000])
def test_no_ordering_is_coded(resnet20, max_bytes, monkeypatch):
    monkeypatch.setattr(tensor_file, 'encode_permutations', None)
    assert design(resnet20, max_bytes=max_bytes).forecast(resnet20)['ordering'] == pytest.approx(36_948, abs=5)


def test_too_few_bytes(resnet20):
    with pytest.raises(ConfigError, match=r'50,000 bytes are too few: ordering \(36,\d+\), kept tensors \(15,336\)'):
        design(resnet20, max_bytes=50_000)
    with pytest.raises(ConfigError, match='which saves nothing. Ask for fewer bytes'):
        design(resnet20, max_bytes=2_000_000)
