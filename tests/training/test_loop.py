"""The loop of all phases: learning rates of groups, what is told of steps, and going on in the middle."""
import pytest
import torch
from conftest import Notes

from timm_sbs.common.errors import SbsError
from timm_sbs.training import loop
from timm_sbs.training.loop import optimize
from timm_sbs.training.phase_settings import Reconstruction


def parameters():
    return [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]


def descend(trained, settings, notes, **options):
    """Steps of the sum of some parameters; what a step was given."""
    given = []

    def take_step(step):
        given.append(step)
        loss = sum(p.sum() for p in trained)
        loss.backward()
        return loss.detach()

    groups = [{'params': [trained[0]]}, {'params': [trained[1]], 'lr_scale': 0.5}]
    optimize('any', settings, torch.nn.ParameterList(trained), groups, take_step, notes, **options)
    return given


def test_groups_have_learning_rates_of_their_own(monkeypatch):
    """Adam moves by the learning rate where all gradients are equal."""
    monkeypatch.setattr(loop, 'LOG_INTERVAL', 2)
    trained, settings, notes, after = parameters(), Reconstruction(steps=5, lr=0.1), Notes(), []
    given = descend(
        trained, settings, notes, lr_scale=0.1, after_step=lambda done: after.append((done, len(notes.done))))
    moved = sum(settings.lr_at(step) for step in range(5)) * 0.1
    assert torch.allclose(trained[0], torch.full((2,), 1 - moved), atol=1e-5)
    assert torch.allclose(trained[1], torch.full((2,), 1 - moved / 2), atol=1e-5)
    assert given == [0, 1, 2, 3, 4] and notes.done == [1, 2, 3, 4, 5] and list(notes.logged) == [2, 4, 5]
    assert notes.logged[4]['lr'] == pytest.approx(settings.lr_at(3) * 0.1) and notes.logged[5]['loss'] < 4
    assert after == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]  # before the checkpoint of the step


class Resumed(Notes):
    def resume(self, module):
        assert len(module) == 2
        return 3


def test_a_run_goes_on_where_it_was():
    notes = Resumed()
    assert descend(parameters(), Reconstruction(steps=5), notes) == [3, 4] and notes.done == [4, 5]
    assert descend(parameters(), Reconstruction(steps=3), Resumed()) == []


def test_a_loss_that_is_not_finite_ends_the_phase():
    trained = parameters()
    trained[0].data.fill_(float('inf'))
    with pytest.raises(SbsError, match='The loss of any is inf at step 1. Lower its learning rate'):
        descend(trained, Reconstruction(steps=1), Notes())
