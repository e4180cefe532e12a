"""BatchNorm statistics in training: whether they follow the images."""
import torch

from timm_sbs.training.trainable.batch_norm import followed_statistics, set_statistics_mode


def test_the_mode_touches_batch_norm_alone():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()).train()
    assert followed_statistics(model) == {'0.running_mean', '0.running_var', '0.num_batches_tracked'}
    set_statistics_mode(model, training=False)
    assert not model[0].training and model[1].training and not followed_statistics(model)
