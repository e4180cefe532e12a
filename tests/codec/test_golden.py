"""The coded form is pinned: a library that codes otherwise would make every predictor unreadable."""
import importlib.util

import numpy as np
import pytest
from conftest import REPOSITORY

spec = importlib.util.spec_from_file_location('make_golden', REPOSITORY / 'tests' / 'data' / 'make_golden.py')
make_golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_golden)
CASES = make_golden.cases()


@pytest.mark.parametrize('name', CASES)
def test_recorded_bytes_give_the_recorded_integers(name):
    values, _, decode = CASES[name]
    data = np.frombuffer((make_golden.GOLDEN / name).read_bytes(), dtype=np.uint8)
    found = decode(data)
    assert len(found) == len(values) and all(map(np.array_equal, found, values))


@pytest.mark.parametrize('name', CASES)
def test_recorded_integers_give_the_recorded_bytes(name):
    values, encode, _ = CASES[name]
    assert encode(values).tobytes() == (make_golden.GOLDEN / name).read_bytes()


def test_there_is_no_other_file_and_each_is_small():
    assert {path.name for path in make_golden.GOLDEN.iterdir()} == set(CASES)
    assert sum(path.stat().st_size for path in make_golden.GOLDEN.iterdir()) < 8000
