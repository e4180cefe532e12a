"""CIFAR ResNets (He et al., arXiv 1512.03385, section 4.2) as timm models: three stages of 16, 32 and 64 channels.

Shortcuts are of option A: subsampling and zero channels, no parameters. Parameter names are those of the published
weights (conv1, bn1, layer1.0.conv1, ..., linear), so that their state dicts load as they are.
"""
from functools import partial
from typing import Any

import torch
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.timm_private import feature_take_indices

__all__ = ['ResNetCifar']


class ShortcutA(nn.Module):
    """Option A: every second row and column, and zero channels on both sides up to ``out_chs``."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_chs - in_chs) // 2
        self.after = out_chs - in_chs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs)
        self.act2 = nn.ReLU(inplace=True)
        same = stride == 1 and in_chs == out_chs
        self.shortcut = nn.Identity() if same else ShortcutA(in_chs, out_chs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.act2(x + shortcut)


class ResNetCifar(nn.Module):
    """ResNet for small images, of 6n + 2 layers.

    Args:
        layers: Blocks in each of the three stages.
        num_classes: Classes of the classifier; 0 for none.
        in_chans: Channels of the image.
        global_pool: Pooling before the classifier, as in timm.
        drop_rate: Dropout rate before the classifier.
        device: Where parameters are; default: torch's.
        dtype: Of parameters; default: torch's.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
            self,
            layers: tuple[int, int, int],
            num_classes: int = 10,
            in_chans: int = 3,
            global_pool: str = 'avg',
            drop_rate: float = 0.,
            device: str | torch.device | None = None,
            dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = [dict(num_chs=16, reduction=1, module='act1')]
        chs = 16
        for index, (depth, out_chs) in enumerate(zip(layers, (16, 32, 64))):
            blocks = []
            for block in range(depth):
                blocks.append(BasicBlock(chs, out_chs, stride=2 if index and not block else 1))
                chs = out_chs
            name = f'layer{index + 1}'
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append(dict(num_chs=chs, reduction=2 ** index, module=name))

        self.num_features = self.head_hidden_size = chs
        self.global_pool, self.linear = create_classifier(chs, num_classes, pool_type=global_pool)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(stem=r'^conv1|bn1', blocks=r'^layer(\d+)' if coarse else r'^layer(\d+)\.(\d+)')

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.linear = create_classifier(self.num_features, num_classes, pool_type=pool_type)
        self.linear.to(self.conv1.weight)

    def _stage(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if self.grad_checkpointing:
            return checkpoint_seq(stage, x)
        return stage(x)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self._stage(self.layer1, x)
        x = self._stage(self.layer2, x)
        return self._stage(self.layer3, x)

    def forward_intermediates(
            self,
            x: Tensor,
            indices: int | list[int] | None = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stem (index 0) and of the three stages, as timm's models return them."""
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt is '{output_fmt}', but only 'NCHW' is supported.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        stages = [self.layer1, self.layer2, self.layer3]
        x = self.act1(self.bn1(self.conv1(x)))
        intermediates = [x] if 0 in take else []
        for index, stage in enumerate(stages[:last] if stop_early else stages, start=1):
            x = self._stage(stage, x)
            if index in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
            self,
            indices: int | list[int] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages that the given features do not need, and the classifier."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        for index in range(last + 1, 4):
            setattr(self, f'layer{index}', nn.Identity())
        if prune_head:
            self.reset_classifier(0, '')
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.linear(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """State dict of the published checkpoints, which wrap it and were saved from a DataParallel model."""
    state_dict = state_dict.get('state_dict', state_dict)
    return {name.removeprefix('module.'): tensor for name, tensor in state_dict.items()}


# Published weights and their accuracies: https://github.com/akamaster/pytorch_resnet_cifar10 (BSD 2-Clause).
_PUBLISHED = 'https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/'


def _cfg(filename: str) -> dict[str, Any]:
    return dict(
        url=_PUBLISHED + filename,
        num_classes=10, input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, interpolation='bilinear',
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        first_conv='conv1', classifier='linear',
        license='bsd-2-clause', paper_ids='arXiv:1512.03385', paper_name='Deep Residual Learning for Image Recognition',
        origin_url='https://github.com/akamaster/pytorch_resnet_cifar10',
    )


default_cfgs = generate_default_cfgs({
    'resnet20_cifar10.akamaster': _cfg('resnet20-12fca82f.th'),
    'resnet32_cifar10.akamaster': _cfg('resnet32-d509ac18.th'),
    'resnet44_cifar10.akamaster': _cfg('resnet44-014dd654.th'),
    'resnet56_cifar10.akamaster': _cfg('resnet56-4bfd9763.th'),
    'resnet110_cifar10.akamaster': _cfg('resnet110-1d1ed7c2.th'),
})


def _create_resnet_cifar(variant: str, blocks: int, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        partial(ResNetCifar, (blocks, blocks, blocks)), variant, pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'),
        **kwargs,
    )


@register_model
def resnet20_cifar10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for 32x32 images: 0.27 M parameters, published CIFAR-10 top-1 91.73 %."""
    return _create_resnet_cifar('resnet20_cifar10', 3, pretrained, **kwargs)


@register_model
def resnet32_cifar10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-32 for 32x32 images: 0.46 M parameters, published CIFAR-10 top-1 92.63 %."""
    return _create_resnet_cifar('resnet32_cifar10', 5, pretrained, **kwargs)


@register_model
def resnet44_cifar10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-44 for 32x32 images: 0.66 M parameters, published CIFAR-10 top-1 93.10 %."""
    return _create_resnet_cifar('resnet44_cifar10', 7, pretrained, **kwargs)


@register_model
def resnet56_cifar10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-56 for 32x32 images: 0.86 M parameters, published CIFAR-10 top-1 93.39 %."""
    return _create_resnet_cifar('resnet56_cifar10', 9, pretrained, **kwargs)


@register_model
def resnet110_cifar10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-110 for 32x32 images: 1.7 M parameters, published CIFAR-10 top-1 93.68 %."""
    return _create_resnet_cifar('resnet110_cifar10', 18, pretrained, **kwargs)
