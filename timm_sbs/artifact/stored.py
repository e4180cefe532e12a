"""An artifact's numbers as a file has them. What is rounded already is not rounded again, which would change it."""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from timm_sbs.codec.tensor_file import Contents
from timm_sbs.common.config import StorageConfig

__all__ = ['Stored']


@dataclass(frozen=True, eq=False)
class Stored:
    """What an artifact was read from.

    Attributes:
        tensors: Of model.safetensors.
        contents: What they stand for, with memory of its own.
        storage: How.
    """
    tensors: dict[str, Tensor]
    contents: Contents
    storage: StorageConfig

    @classmethod
    def of(cls, tensors: dict[str, Tensor], contents: Contents, storage: StorageConfig) -> 'Stored':
        return cls(tensors, Contents(
            _copied(contents.predictor), contents.frequencies.clone(), contents.permutations, _copied(contents.kept),
            _copied(contents.rounded), _copied(contents.steps)), storage)

    def holds(self, contents: Contents, storage: StorageConfig) -> bool:
        """Whether an artifact's numbers, and how they are to be stored, are still those of the file."""
        own = self.contents
        return (
            storage == self.storage and _same(contents.predictor, own.predictor) and _same(contents.kept, own.kept)
            and _same(contents.rounded, own.rounded) and _same(contents.steps, own.steps)
            and torch.equal(contents.frequencies.cpu(), own.frequencies)
            and len(contents.permutations) == len(own.permutations)
            and all(len(found) == len(expected) and all(map(np.array_equal, found, expected))
                    for found, expected in zip(contents.permutations, own.permutations)))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        tensor.dtype == expected[name].dtype and torch.equal(tensor.detach().cpu(), expected[name])
        for name, tensor in found.items())
