"""Orderings of a whole network."""
import numpy as np
import torch
from torch import nn

from timm_sbs.common.config import OrderingConfig
from timm_sbs.predictor.selection import select_weights
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.paths import find_permutations


def test_they_are_those_of_each_layer_on_any_number_of_threads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 40, 3), nn.Conv2d(40, 8, 3), nn.Conv2d(8, 32, 5))
    specs, ordering, threads = select_weights(model), OrderingConfig(), torch.get_num_threads()
    expected = [find_permutations(model.get_parameter(spec.name), spec, ordering) for spec in specs]
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = find_orderings(model, specs, ordering)
            assert all(np.array_equal(a[0], b[0]) for a, b in zip(found, expected)) and len(found) == 3
    finally:
        torch.set_num_threads(threads)
