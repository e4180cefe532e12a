import dataclasses
import json

import pytest

from timm_sbs.artifact.files import read_config
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.common.config import to_dict
from timm_sbs.common.entries import ENTRIES
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.results import Ledger, Results

LEDGER = dict(predictor=5, ordering=4, rounded=6, kept=3, frequencies=2, header=1, file=21, predictor_parameters=7,
              original_values=10, original=40, percent=37.5, bits_per_weight=12.)


@pytest.mark.parametrize('name', ENTRIES)
def test_what_is_shipped_is_written_as_it_was_read(name):
    block = json.loads((shipped_folder(name) / 'config.json').read_text())['sbs']
    written = to_dict(read_config(shipped_folder(name))[0])
    for field in ('ledger', 'results'):
        assert json.dumps(written[field]) == json.dumps(block[field])


def test_results_read_as_attributes_and_as_a_mapping():
    results = Results.of({'top1': 90, 'seed': 3, 'layer_bits': [4, 5.5], 'started_from': {'top1': 80.}})
    assert results.top1 == 90. and results.layer_bits == (4., 5.5) and results.started_from.top1 == 80.
    assert results.images is None and 'images' not in results and results.get('images') is None
    assert list(results) == ['top1', 'seed', 'layer_bits', 'started_from']
    assert json.loads(json.dumps({**results})) == dict(results) == results
    assert results == Results.of(dict(results)) != Results()
    with pytest.raises(dataclasses.FrozenInstanceError):
        results.top1 = 1.
    with pytest.raises(KeyError):
        results['images']


@pytest.mark.parametrize('change, says', [
    ({'top1': 101}, 'top1'), ({'top1': -1.}, 'top1'), ({'top1': 'good'}, 'top1'), ({'top1': True}, 'top1'),
    ({'top1': float('nan')}, 'top1'), ({'images': -1}, 'images'), ({'images': 1.5}, 'images'),
    ({'reconstruction_error': float('inf')}, 'reconstruction_error'), ({'reconstruction_seconds': -1}, 'seconds'),
    ({'surprise': float('nan')}, 'JSON'), ({'surprise': {'a': [object()]}}, 'JSON'), ({'surprise': {1: 2}}, 'JSON'),
    ({'versions': {'torch': 2}}, 'versions'),
    ({'versions': ['torch']}, 'versions'), ({'hardware': 'a\nb'}, 'hardware'), ({'hardware': '\x1b[2J'}, 'hardware'),
    ({'dataset': '\ud800'}, 'dataset'), ({'layer_bits': [1e9]}, 'layer_bits'), ({'layer_bits': 4}, 'layer_bits'),
    ({'started_from': 3}, 'started_from'), ({'before_quantization': {'top1': 200}}, 'top1'),
    ({'seed': 1 << 70}, 'seed')])
def test_results_that_can_not_be(change, says):
    with pytest.raises(ConfigError, match=says) as error:
        Results.of(change)
    assert '\n' not in str(error.value)


def test_figures_of_a_later_version_are_kept():
    later = {'top1': 90., 'robustness': {'noise': 71.5, 'blur': [1, None]}, 'seed': 3,
             'started_from': {'energy': 'low'}}
    results = Results.of(later)
    assert results.top1 == 90. and list(results) == list(later) and dict(results) == later
    assert results['robustness'] == {'noise': 71.5, 'blur': [1, None]} and list(results.unknown) == ['robustness']
    assert dict(results.shortened(0)) == {name: later[name] for name in ('top1', 'robustness', 'seed')}
    assert Results.of({**results, 'images': 5})['robustness'] == later['robustness']
    assert Ledger.of({**LEDGER, 'index': 3})['index'] == 3


def nested(levels):
    results = {'seed': 0}
    for level in range(levels):
        results = {'seed': level + 1, 'started_from': results}
    return results


def test_history_is_bounded():
    """A reader refuses what is nested without end; a run that goes on from a long history leaves out its beginning."""
    with pytest.raises(ConfigError, match='nested more than'):
        Results.of(nested(500))
    results = Results.of(nested(14))
    assert results.shortened(2) == {
        'seed': 14, 'started_from': {'seed': 13, 'started_from': {'seed': 12}}}
    assert Results.of({'seed': 99, 'started_from': dict(results.shortened())}).shortened().seed == 99


@pytest.mark.parametrize('change', [
    {'predictor': -1}, {'original': 0}, {'original_values': 0}, {'percent': float('nan')}, {'percent': -1.},
    {'bits_per_weight': float('inf')}, {'file': 20}, {'kept': 3.5}, {'header': None}, {'extra': float('inf')}])
def test_ledgers_that_can_not_be(change):
    assert Ledger.of(LEDGER) == LEDGER
    with pytest.raises(ConfigError):
        Ledger.of({**LEDGER, **change})


def test_a_ledger_lacks_nothing():
    for name in LEDGER:
        with pytest.raises(ConfigError, match=name):
            Ledger.of({key: value for key, value in LEDGER.items() if key != name})
