import math

from timm_sbs.common.results import earlier, number, text, with_short_history


def test_what_is_not_a_number_or_a_text_was_not_recorded():
    results = {'top1': 91.5, 'images': 0, 'seed': -1, 'bits': math.inf, 'agreement': 101, 'loss': True, 'error': '0.1',
               'dataset': 'cifar10', 'hardware': 'two\nlines', 'unlabelled': '', 'long': 'a' * 1000}
    assert number(results, 'top1', 100) == 91.5 and number(results, 'images') == 0
    assert all(number(results, name, 100) is None for name in ('seed', 'bits', 'agreement', 'loss', 'error', 'none'))
    assert text(results, 'dataset') == 'cifar10'
    assert all(text(results, name) is None for name in ('top1', 'hardware', 'unlabelled', 'long', 'none'))


def test_history_has_one_level():
    results = {'top1': 3, 'started_from': {'top1': 2, 'started_from': {'top1': 1}}, 'before_quantization': None}
    assert with_short_history(results) == {'top1': 3, 'started_from': {'top1': 2}, 'before_quantization': None}
    assert earlier(results, 'started_from')['top1'] == 2 and earlier(results, 'before_quantization') == {}
