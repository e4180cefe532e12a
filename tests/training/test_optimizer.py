import pytest
import torch

from timm_sbs.common.errors import ConfigError
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.steps.optimizer import make_optimizer, set_lr


def test_settings_reach_the_optimizer():
    settings = ReconstructionSettings(opt='adamw', betas=(0.5, 0.6), weight_decay=0.1, lr=3e-3)
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(2, 2))], settings)
    group, = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group['lr'], tuple(group['betas']), group['weight_decay']) == (3e-3, (0.5, 0.6), 0.1)
    set_lr(optimizer, 0.25)
    assert group['lr'] == 0.25


def test_optimizers_that_cannot_be_made():
    parameters = [torch.nn.Parameter(torch.ones(1))]
    with pytest.raises(ConfigError, match="timm has no optimizer 'adman'"):
        make_optimizer(parameters, ReconstructionSettings(opt='adman'))
    with pytest.raises(ConfigError, match=r'betas of reconstruction are \(2.0, 0.9\), but must be'):
        make_optimizer(parameters, ReconstructionSettings(betas=(2., 0.9)))
    with pytest.raises(ConfigError, match="Optimizer 'bnbadam' cannot be made"):
        make_optimizer(parameters, ReconstructionSettings(opt='bnbadam'))
