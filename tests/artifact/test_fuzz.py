"""Artifacts as a stranger might send them, each used in a process with limits of memory and time: a few of the cases of
tests/benchmarks/fuzz.py."""
import os
import sys

import pytest
from conftest import few_or_all, fit_quickly, started
from stranger import one_case

from timm_sbs.common.config import QuantizationConfig

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits need fork and /proc'),
    pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')]
PARTS = 10


@pytest.fixture(scope='module')
def kinds(small_model):
    """The two files of a predictor, a quantized one, and rounded weights."""
    predictor = fit_quickly(small_model, pct=20.)
    artifacts = predictor, predictor.quantized(QuantizationConfig((4.,) * 5)), started(small_model, None, bytes=14_000)
    return [tuple(artifact.files()[1][name] for name in ('config.json', 'model.safetensors')) for artifact in artifacts]


@few_or_all(300, 3000)
@pytest.mark.parametrize('part', range(PARTS))
def test_nothing_that_a_stranger_sends_does_harm(kinds, part, count, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, 'HF_HUB_OFFLINE', '1')
    for seed in range(part, count, PARTS):
        found = one_case(tmp_path, kinds[seed // PARTS % len(kinds)], seed, thoroughly=seed % 8 == 0)
        assert not found['wrong'], found
