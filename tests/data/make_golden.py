"""Write tests/codec/golden/: integers, and the bytes that code them. Bytes that change are a new format.

    python tests/data/make_golden.py
"""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from timm_sbs.codec.matrices import decode_matrices, encode_matrices
from timm_sbs.codec.permutations import decode_permutations, encode_permutations

GOLDEN = Path(__file__).parents[1] / 'codec' / 'golden'


def _noise(count: int, seed: int) -> np.ndarray:
    """Numbers from 0 to 2^31 of a recurrence that no library can change: [count], int64."""
    values, state = [], seed
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2 ** 31
        values.append(state >> 8)
    return np.array(values, dtype=np.int64)


def _bell(count: int, seed: int, width: int) -> np.ndarray:
    return sum(_noise(count, seed + i) % width for i in range(4)) - 2 * width


def _permutation(count: int, seed: int) -> np.ndarray:
    return np.argsort(_noise(count, seed), kind='stable')


def cases() -> dict[str, tuple[Any, Callable[[Any], np.ndarray], Callable[[np.ndarray], Any]]]:
    """Of each file: what it holds, how that is coded, and how it is decoded."""
    rows: list[np.ndarray] = [
        np.stack([_permutation(48, seed) for seed in range(5)]), _permutation(300, 9)[None],
        np.arange(12)[None].repeat(2, axis=0)]
    matrices = [
        (_bell(1728, 5, 20) // 12).reshape(8, 24, 9), _bell(600, 6, 30).reshape(20, 30, 1),
        np.array([[[-32768], [32767]]]), _bell(50, 2, 4).reshape(1, 50, 1) + 90,
        np.zeros((3, 4, 9), dtype=np.int64), np.zeros((0, 4, 1), dtype=np.int64)]
    return {
        'permutations.bin': (
            rows, encode_permutations, lambda data: decode_permutations(data, [array.shape for array in rows])),
        'matrices.bin': (matrices, encode_matrices, lambda data: decode_matrices(data, [m.shape for m in matrices])),
    }


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, (values, encode, _) in cases().items():
        (GOLDEN / name).write_bytes(encode(values).tobytes())


if __name__ == '__main__':
    main()
