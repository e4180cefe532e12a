import math

from timm_sbs.common.results import block, number, text


def test_what_is_not_a_number_or_a_text_was_not_recorded():
    results = {'top1': 91.5, 'images': 0, 'seed': -1, 'bits': math.inf, 'agreement': 101, 'loss': True, 'error': '0.1',
               'dataset': 'cifar10', 'hardware': 'two\nlines', 'unlabelled': '', 'long': 'a' * 1000}
    assert number(results, 'top1', 100) == 91.5 and number(results, 'images') == 0
    assert all(number(results, name, 100) is None for name in ('seed', 'bits', 'agreement', 'loss', 'error', 'none'))
    assert text(results, 'dataset') == 'cifar10'
    assert all(text(results, name) is None for name in ('top1', 'hardware', 'unlabelled', 'long', 'none'))


def test_blocks():
    results = {'top1': 3, 'started_from': {'top1': 2}, 'versions': None}
    assert block(results, 'started_from') == {'top1': 2} and block(results, 'versions') == block(results, 'none') == {}
