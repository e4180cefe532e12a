"""Artifacts as a stranger might send them, each used in a process with limits of memory and time: a few of the cases of
tests/benchmarks/fuzz.py."""
import os
import random
import sys

import pytest
from conftest import few_or_all, fit_quickly, started
from mutations import mutated, write
from stranger import LINKS, harm, surroundings

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
        rng, files = random.Random(-seed - 1), kinds[seed // PARTS % len(kinds)]
        links = tuple(rng.sample(sorted(LINKS), 2)) if rng.random() < .2 else ()
        folder = surroundings(tmp_path, links)
        change, config, weights = mutated(*files, seed)
        write(folder, config, weights)
        wrong, found, _ = harm(tmp_path, thoroughly=seed % 8 == 0)
        assert not wrong, f'seed {seed}, {change}: {wrong}, {found}'
