import pytest

from timm_sbs.artifact.folder import artifact_ledger
from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.training.design import budget
from timm_sbs.training.design.budget import divide_budget, first_division
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import start_artifact
from timm_sbs.training.options.settings import ENCODING_DEFAULTS


def choose(order_over, bits):
    coordinates = 'path' if order_over == 'layer' else 'grid'
    return dict(
        ordering=OrderingConfig(order_over, coordinates), encoding=ENCODING_DEFAULTS[coordinates], linear_layers=4)


@pytest.fixture()
def said(monkeypatch):
    monkeypatch.setattr(budget, 'TRIAL_STEPS', 20)
    return []


def test_the_best_division_is_chosen_and_explained(resnet20, said):
    found = divide_budget(resnet20, 64_000, choose, ['layer', 'axes'], [5., 7.], say=said.append)
    trials = [line for line in said if 'parameters, error' in line]
    assert len(trials) == 3  # both orderings at 5 bits, then the better one at 7
    errors = {tuple(line.split()[:2]): float(line.split()[-1]) for line in trials}
    chosen = (found.generator.ordering.order_over, f'{found.storage.quantization.layer_bits[0]:g}')
    assert errors[chosen] == min(errors.values())
    assert said[-1].startswith(f'chosen: --order-over {chosen[0]} --bits {chosen[1]}')
    orderings = find_orderings(resnet20, found.specs, found.generator.ordering)
    artifact = start_artifact(found, orderings, resnet20, seed=0)
    assert 0.93 * 64_000 < artifact_ledger(artifact)['total'] <= 64_000


def test_what_does_not_fit_is_left_out(resnet20, said):
    found = divide_budget(resnet20, 30_000, choose, ['layer', 'nothing'], [5.], say=said.append)
    assert found.generator.ordering.order_over == 'nothing'
    assert any('layer' in line and 'too few' in line for line in said)
    with pytest.raises(ConfigError, match='4,000 bytes are too few'):
        divide_budget(resnet20, 4000, choose, ['axes', 'nothing'], [5.], say=said.append)


def test_images_rule_out_orderings_that_take_much_of_the_budget(resnet20, said):
    """The path of a layer takes 36 kB, which images could not train; the axes take 660 bytes."""
    found = divide_budget(
        resnet20, 80_000, choose, ['layer', 'axes'], [5.], say=said.append, images_follow=True)
    assert found.generator.ordering.order_over == 'axes'
    assert [line.split()[0] for line in said[1:]] == ['layer', 'axes', 'chosen:'] and 'left out' in said[1]
    with pytest.raises(ConfigError, match="ordering 'layer' would take 3[67],... of 80,000 bytes"):
        divide_budget(resnet20, 80_000, choose, ['layer'], [5.], say=said.append, images_follow=True)


def test_a_plan_has_the_first_division_and_trains_nothing(resnet20, monkeypatch):
    monkeypatch.setattr(budget, 'reconstruct', None)
    monkeypatch.setattr(budget, 'find_orderings', None)
    found, trials = first_division(resnet20, 80_000, choose, ['layer', 'axes'], [5., 4.])
    assert (found.generator.ordering.order_over, found.bits, trials) == ('layer', 5., 3)
    found, trials = first_division(resnet20, 80_000, choose, ['layer', 'axes'], [5., 4.], images_follow=True)
    assert (found.generator.ordering.order_over, trials) == ('axes', 2)
    with pytest.raises(ConfigError, match='4,000 bytes are too few'):
        first_division(resnet20, 4000, choose, ['axes', 'nothing'], [5.])
