import numpy as np
import pytest

from timm_sbs.codec.streams import StreamReader, StreamWriter
from timm_sbs.common.errors import ArtifactError

COUNTS = np.array([[900, 90, 10], [1, 1, 998]])
CONTEXTS = np.array([0, 0, 1, 1, 0, 1] * 50, np.uint8)
SYMBOLS = np.array([0, 1, 2, 2, 0, 2] * 50)
SIZES = np.array([2, 1000, 65536])


def written():
    writer = StreamWriter()
    writer.code(COUNTS.copy(), CONTEXTS, SYMBOLS, increment=0)
    writer.code_uniform(SIZES, SIZES - 1)
    return writer.to_bytes()


def test_a_reader_fills_the_arrays_with_what_was_written():
    reader, symbols, uniform = StreamReader(written()), np.zeros(300, np.int32), np.zeros(3, np.int64)
    reader.code(COUNTS.copy(), CONTEXTS, symbols, increment=0)
    reader.code_uniform(SIZES, uniform)
    reader.check_end()
    assert np.array_equal(symbols, SYMBOLS) and np.array_equal(uniform, SIZES - 1)


def test_the_code_takes_the_information_in_the_symbols():
    bits = -np.log2(COUNTS[CONTEXTS, SYMBOLS] / COUNTS.sum(axis=1)[CONTEXTS]).sum() + np.log2(SIZES).sum()
    assert bits / 8 < len(written()) < bits / 8 + 8


def test_writer_and_reader_learn_the_same():
    writer, learned = StreamWriter(), COUNTS.copy()
    for _ in range(2):
        writer.code(learned, CONTEXTS, SYMBOLS, increment=8)
    assert learned.sum() == COUNTS.sum() + 2 * 8 * 300 and learned[1, 2] == 998 + 2 * 8 * 150
    reader, found, symbols = StreamReader(writer.to_bytes()), COUNTS.copy(), np.zeros(300, np.int32)
    for _ in range(2):
        reader.code(found, CONTEXTS, symbols, increment=8)
        assert np.array_equal(symbols, SYMBOLS)
    assert np.array_equal(found, learned)


def test_an_end_too_early_or_too_late_is_refused():
    reader = StreamReader(written())
    reader.code(COUNTS.copy(), CONTEXTS[:100], np.zeros(100, np.int32), increment=0)
    with pytest.raises(ArtifactError, match='damaged'):
        reader.check_end()
    with pytest.raises(ArtifactError, match='damaged'):
        StreamReader(written()[:-1])
