import pytest

from timm_sbs.artifact import artifact_sizes
from timm_sbs.config import OrderingConfig
from timm_sbs.errors import ConfigError
from timm_sbs.training import budget
from timm_sbs.training.budget import divide_budget
from timm_sbs.training.fit import start_fit
from timm_sbs.training.orderings import find_orderings
from timm_sbs.training.settings import ENCODING_DEFAULTS


def choose(granularity, bits):
    coordinates = 'path' if granularity == 'layer' else 'grid'
    return dict(
        ordering=OrderingConfig(granularity, coordinates), encoding=ENCODING_DEFAULTS[coordinates], linear_layers=4)


@pytest.fixture()
def said(monkeypatch):
    monkeypatch.setattr(budget, 'TRIAL_STEPS', 60)
    return []


def test_the_best_division_is_chosen_and_explained(resnet20, said):
    config, pretrained_cfg, specs = divide_budget(
        resnet20, 64_000, choose, ['layer', 'axis'], [5., 7.], say=said.append)
    trials = [line for line in said if 'parameters, error' in line]
    assert len(trials) == 3  # both orderings at 5 bits, then the better one at 7
    errors = {tuple(line.split()[:2]): float(line.split()[-1]) for line in trials}
    chosen = (config.ordering.granularity, f'{config.quantization.layer_bits[0]:g}')
    assert errors[chosen] == min(errors.values())
    assert said[-1].startswith(f"chosen: granularity '{chosen[0]}', {chosen[1]} bits")
    orderings = find_orderings(resnet20, specs, config.ordering)
    fit = start_fit(config, pretrained_cfg, specs, orderings, seed=0)
    assert 0.93 * 64_000 < artifact_sizes(fit.artifact(resnet20, {}))['total'] <= 64_000


def test_what_does_not_fit_is_left_out(resnet20, said):
    config, _, _ = divide_budget(resnet20, 30_000, choose, ['layer', 'none'], [5.], say=said.append)
    assert config.ordering.granularity == 'none'
    assert any('layer' in line and 'too few' in line for line in said)
    with pytest.raises(ConfigError, match='4,000 bytes are too few'):
        divide_budget(resnet20, 4000, choose, ['axis', 'none'], [5.], say=said.append)


def test_images_rule_out_orderings_that_take_much_of_the_budget(resnet20, said):
    """The path of a layer takes 36 kB, which images could not train; the axes take 660 bytes."""
    config, _, _ = divide_budget(
        resnet20, 80_000, choose, ['layer', 'axis'], [5.], say=said.append, images_follow=True)
    assert config.ordering.granularity == 'axis'
    assert [line.split()[0] for line in said[1:]] == ['layer', 'axis', 'chosen:'] and 'left out' in said[1]
    with pytest.raises(ConfigError, match="ordering 'layer' would take 3[67],... of 80,000 bytes"):
        divide_budget(resnet20, 80_000, choose, ['layer'], [5.], say=said.append, images_follow=True)
