import json
import subprocess
import sys
from pathlib import Path

import pytest

from timm_sbs.common.config import (
    ArtifactConfig,
    EncodingConfig,
    OrderingConfig,
    PredictorConfig,
    SelectionRule,
    from_dict,
    to_dict,
)
from timm_sbs.common.errors import ConfigError, SbsError


def test_json_round_trip_keeps_every_field():
    config = ArtifactConfig(
        base='resnet20_cifar10', generated=('a.weight', 'b.weight'), rounded=(),
        ordering=OrderingConfig('axes', 'grid'), encoding=EncodingConfig(num_frequencies=3, bandwidth_exponent=0.25),
        predictor=PredictorConfig(7, 3, 'sine'), storage_dtype='bfloat16', digest='00', results={'top1': 91.5})
    assert from_dict(ArtifactConfig, json.loads(json.dumps(to_dict(config))), 'test') == config


@pytest.mark.parametrize('make', [
    lambda: OrderingConfig('kernel'),
    lambda: OrderingConfig('filter', 'path'),
    lambda: EncodingConfig(kind='fourier'),
    lambda: EncodingConfig(num_frequencies=0),
    lambda: EncodingConfig(bandwidth=float('nan')),
    lambda: PredictorConfig(width=0),
    lambda: PredictorConfig(linear_layers=1),
    lambda: PredictorConfig(activation='exec'),
    lambda: PredictorConfig(extra=-1),
    lambda: SelectionRule(min_weights=-1), lambda: ArtifactConfig(base='resnet18', rounded=('a',)),
    lambda: ArtifactConfig(base='', generated=('a',)),
    lambda: ArtifactConfig(base='resnet18', generated=()),
    lambda: ArtifactConfig(base='resnet18', generated=('a', 'a')),
    lambda: ArtifactConfig(base='resnet18', generated=('a',), storage_dtype='int3'),
])
def test_wrong_settings_are_refused_when_they_are_made(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize('change, says', [
    ({'surprise': 1}, "unknown field 'surprise'"),
    ({'base': 3}, 'field base is 3, but must be text'),
    ({'generated': 'a.weight'}, "field generated is 'a.weight', but must be a list"),
    ({'predictor': {'width': True}}, 'field width is True, but must be an integer'),
    ({'predictor': {'width': 2.5}}, 'field width is 2.5, but must be an integer'),
    ({'encoding': []}, 'must be a JSON object'),
    ({'ordering': {'order_over': 'row'}}, "order_over is 'row'"),
    ({'encoding': {'bandwidth': 10 ** 400}}, 'field bandwidth is 1000.*, but must be a number'),
    ({'predictor': {'width': 10 ** 400}}, 'must be from 1 to'),
])
def test_messages_say_where_and_what(change, says):
    data = {'base': 'resnet18', 'generated': ['a.weight'], **change}
    with pytest.raises(ConfigError, match=says) as error:
        from_dict(ArtifactConfig, data, "'sbs' in x/config.json")
    assert "'sbs' in x/config.json" in str(error.value)
    assert isinstance(error.value, SbsError)


def test_missing_field_is_named():
    with pytest.raises(ConfigError, match="lacks the field 'base'"):
        from_dict(ArtifactConfig, {'generated': ['conv.weight']}, 'test')


def test_config_and_errors_import_no_torch():
    code = (
        'import sys, types; package = types.ModuleType("timm_sbs"); package.__path__ = [sys.argv[1]]; '
        'sys.modules["timm_sbs"] = package; import timm_sbs.common.config; assert "torch" not in sys.modules')
    from timm_sbs.common import config
    folder = Path(config.__file__).parents[1]
    subprocess.run([sys.executable, '-c', code, str(folder)], check=True)
