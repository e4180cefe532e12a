import torch

from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.steps.optimizer import make_optimizer, set_lr


def test_settings_and_groups_reach_the_optimizer():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = make_optimizer(
        [{'params': [first]}, {'params': [second], 'lr_scale': 0.5}],
        ReconstructionSettings(lr=3e-3, betas=(0.5, 0.6)))
    assert [(group['lr'], tuple(group['betas'])) for group in optimizer.param_groups] == [(3e-3, (0.5, 0.6))] * 2
    set_lr(optimizer, 0.1)
    (first.sum() + second.sum()).backward()
    optimizer.step()
    assert torch.allclose(first, torch.full((2,), 0.9)) and torch.allclose(second, torch.full((2,), 0.95))
