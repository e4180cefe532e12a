"""What a budget of bytes is spent on, where no flag says it."""
import pytest
import timm

from timm_sbs.common.config import OrderingConfig, SelectionRule
from timm_sbs.common.errors import ConfigError
from timm_sbs.training.design import budget
from timm_sbs.training.design.method import choose_method, with_rule
from timm_sbs.training.fit import fit
from timm_sbs.training.options.settings import ENCODING_DEFAULTS


def choose(order_over, bits):
    coordinates = 'path' if order_over == 'layer' else 'grid'
    return dict(ordering=OrderingConfig(order_over, coordinates), encoding=ENCODING_DEFAULTS[coordinates],
                linear_layers=4, rule=SelectionRule())


@pytest.fixture()
def chosen(resnet8, monkeypatch):
    """Chooses for the small network, and tells what was said."""
    monkeypatch.setattr(budget, 'TRIAL_STEPS', 5)
    model = timm.create_model('resnet8_cifar10', checkpoint_path=resnet8[3])

    def run(max_bytes, order_over='axes'):
        said = []
        return choose_method(model, max_bytes, choose, say=said.append, order_overs=[order_over], bits=[5.]), said

    return run


def test_the_method_of_the_smaller_error_is_chosen_and_explained(chosen):
    """After five steps of reconstruction a predictor has learned next to nothing."""
    found, said = chosen(20_000)
    assert not found.specs and len(found.rounded) == 8 and found.method == 'rounding'
    errors = {line.split()[0]: float(line.split()[-1]) for line in said if ' error ' in line}
    assert errors['rounding'] < 0.2 < 0.8 < errors['generation']
    assert said[-1].startswith('chosen: rounding')


def test_the_trial_rounds_as_the_run_does(chosen, resnet8):
    """By the bits that integers take, not to the nearest: at a bit a weight that is a third less."""
    model = timm.create_model('resnet8_cifar10', checkpoint_path=resnet8[3])
    said = chosen(12_000)[1]
    [told] = [float(line.split()[-1]) for line in said if line.split()[0] == 'rounding']
    rounded = fit(model, bytes=12_000, method='rounding', mixed_precision='no', quiet=True)
    assert told == pytest.approx(rounded.results['rounding_error'], rel=0.2)


def test_where_no_predictor_can_be_made_weights_are_rounded(chosen):
    found, said = chosen(10_000, 'layer')  # whose ordering takes nearly all of it
    assert not found.specs and said[0].startswith('method: rounding, for a predictor cannot be made: ')
    with pytest.raises(ConfigError, match='1,500 bytes are too few'):
        chosen(1500)


def test_other_rules_leave_all_else_as_it_is():
    changed = with_rule(choose, method='rounding', generate=('layer1.*',))('axes', 4.)
    expected = choose('axes', 4.)
    assert changed.pop('rule') == SelectionRule('rounding', generate=('layer1.*',))
    assert expected.pop('rule') == SelectionRule() and changed == expected
