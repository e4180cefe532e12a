import numpy as np
import torch
from torch import nn

from timm_sbs.common import cache
from timm_sbs.common.config import OrderingConfig
from timm_sbs.predictor.selection import select_weights
from timm_sbs.training.design import paths
from timm_sbs.training.design.orderings import find_orderings

LAYER = OrderingConfig()


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(64, 200, 3), nn.Conv2d(200, 8, 3), nn.Conv2d(8, 160, 5))  # 115,200 weights first


def count_searches(monkeypatch):
    found = []

    def counted(weight, spec, config, search=paths.find_permutations):
        found.append(spec.name)
        return search(weight, spec, config)

    monkeypatch.setattr(paths, 'find_permutations', counted)
    return found


def test_large_layers_are_ordered_once_for_each_content(tmp_path, monkeypatch):
    monkeypatch.setenv('TIMM_SBS_CACHE', str(tmp_path))
    found = count_searches(monkeypatch)
    model = network()
    specs = select_weights(model)
    first = find_orderings(model, specs, LAYER)
    assert sorted(found) == ['0.weight', '1.weight', '2.weight']
    second = find_orderings(model, specs, LAYER)
    assert sorted(found[3:]) == ['1.weight', '2.weight']  # small ones are not worth a look
    for a, b in zip(first, second):
        assert a[0].dtype == b[0].dtype and np.array_equal(a[0], b[0])
    find_orderings(network(seed=1), specs, LAYER)
    assert '0.weight' in found[5:]
    del found[:]
    find_orderings(model, specs, OrderingConfig('axes', 'grid'))
    assert '0.weight' in found


def test_what_is_no_ordering_in_the_cache_is_found_anew(tmp_path, monkeypatch):
    monkeypatch.setenv('TIMM_SBS_CACHE', str(tmp_path))
    model = network()
    specs = select_weights(model)
    expected = find_orderings(model, specs, LAYER)
    [file] = tmp_path.rglob('*.safetensors')
    cache.store_cached('orderings', file.stem, {'0': torch.zeros(1, 12_800).int()}, 'zeros')
    assert np.array_equal(find_orderings(model, specs, LAYER)[0][0], expected[0][0])


def test_the_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setenv('TIMM_SBS_CACHE', 'off')
    model = network()
    specs = select_weights(model)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = find_orderings(model, specs, LAYER)
        torch.set_num_threads(3)
        three = find_orderings(model, specs, LAYER)
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, three))
