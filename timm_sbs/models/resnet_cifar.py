"""CIFAR ResNets (He et al., arXiv 1512.03385, section 4.2) as timm models: three stages of 16, 32 and 64 channels.

They are timm's ResNet with a stem of one 3x3 convolution, and with shortcuts of option A: subsampling and zero
channels, no parameters. Parameter names are those of the published weights (conv1, bn1, layer1.0.conv1, ..., linear),
so that their state dicts load as they are.
"""
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import get_device_dtype
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.errors import ConfigError

__all__ = ['ResNetCifar']

_FIXED = ('block', 'stem_type', 'stem_width', 'replace_stem_pool', 'avg_down', 'down_kernel_size')
_OUTPUT_STRIDES = {2: 8, 4: 16, 8: 32, 16: 32, 32: 32}  # by timm's count, in which the stem has a stride of four


class ShortcutA(nn.Module):
    """Option A: every ``stride``-th row and column, and zero channels on both sides up to ``out_chs``."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_chs - in_chs) // 2
        self.after = out_chs - in_chs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlockA(BasicBlock):
    """timm's block with a shortcut of option A."""

    def __init__(
            self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, **kwargs: Any,
    ) -> None:
        shortcut = None if downsample is None else ShortcutA(inplanes, planes, stride)
        super().__init__(inplanes, planes, stride, shortcut, **kwargs)


class ResNetCifar(ResNet):
    """ResNet for small images, of 6n + 2 layers.

    Args:
        layers: Blocks in each of the three stages.
        output_stride: Of the last stage: 4, or 2 with dilated convolutions. Larger ones, as other networks have them,
            change nothing.
        channels: Of the stages; the stem has as many as the first one.
        zero_init_last: As in timm's ResNet, but not unless asked for.
        **kwargs: As of timm's ResNet, but for its stem and shortcuts.

    Raises:
        ConfigError: An argument is about a stem or shortcut that this network does not have, or out of range.
    """

    def __init__(
            self,
            layers: tuple[int, int, int],
            num_classes: int = 10,
            in_chans: int = 3,
            output_stride: int = 32,
            channels: tuple[int, int, int] = (16, 32, 64),
            zero_init_last: bool = False,
            **kwargs: Any,
    ) -> None:
        if fixed := [name for name in _FIXED if name in kwargs]:
            raise ConfigError(
                f"CIFAR ResNets take no '{fixed[0]}': their stem is one 3x3 convolution, and their basic blocks have "
                f'shortcuts without parameters.')
        if len(layers) != 3 or len(channels) != 3 or channels[0] % 2:
            raise ConfigError(
                f'CIFAR ResNets have three stages, the first of an even number of channels, but layers is {layers} and '
                f'channels is {channels}.')
        if output_stride not in _OUTPUT_STRIDES:
            raise ConfigError(f'output_stride is {output_stride}, but CIFAR ResNets have 4, or 2 if dilated.')
        # Of timm's stems, the deep one has as many channels as asked for.
        super().__init__(
            BasicBlockA,  # type: ignore[arg-type]  # the class, as timm's own networks give it
            layers, num_classes, in_chans, _OUTPUT_STRIDES[output_stride], channels=channels,
            stem_type='deep', stem_width=channels[0] // 2, zero_init_last=zero_init_last, **kwargs)
        stem = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False, **get_device_dtype(self))
        nn.init.kaiming_normal_(stem.weight, mode='fan_out', nonlinearity='relu')
        self.add_module('conv1', stem)
        self.add_module('maxpool', nn.Identity())
        self.layer4 = nn.Sequential()  # which computes nothing
        for info in self.feature_info:
            info['reduction'] = info['reduction'] // 4 or 1  # type: ignore[operator]  # an int
        self._rename_classifier()

    def _rename_classifier(self) -> None:
        self.linear = self.fc
        del self.fc

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        return 'linear' if name_only else self.linear

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self._rename_classifier()

    @torch.jit.ignore
    def forward_intermediates(
            self, x: Tensor, indices: int | list[int] | None = None, *args: Any, **kwargs: Any,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stem (index 0) and of the three stages, as timm's models return them."""
        return super().forward_intermediates(x, feature_take_indices(4, indices)[0], *args, **kwargs)

    @torch.jit.ignore
    def prune_intermediate_layers(
            self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages that the given features do not need, and the classifier."""
        take, last = feature_take_indices(4, indices)
        super().prune_intermediate_layers([4] if last == 3 else take, prune_norm, prune_head)
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.linear(x)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """State dict of the published checkpoints, which wrap it and were saved from a DataParallel model."""
    state_dict = state_dict.get('state_dict', state_dict)
    return {name.removeprefix('module.'): tensor for name, tensor in state_dict.items()}


# Published weights and their accuracies: https://github.com/akamaster/pytorch_resnet_cifar10 (BSD 2-Clause).
_ORIGIN = 'https://github.com/akamaster/pytorch_resnet_cifar10'
_PUBLISHED = {  # by depth: file, top-1
    20: ('resnet20-12fca82f.th', 91.73), 32: ('resnet32-d509ac18.th', 92.63), 44: ('resnet44-014dd654.th', 93.10),
    56: ('resnet56-4bfd9763.th', 93.39), 110: ('resnet110-1d1ed7c2.th', 93.68),
}


def _cfg(classes: int, **weights: str) -> dict[str, Any]:
    return dict(
        num_classes=classes, input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, interpolation='bilinear',
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        first_conv='conv1', classifier='linear',
        paper_ids='arXiv:1512.03385', paper_name='Deep Residual Learning for Image Recognition', **weights)


def _published(filename: str) -> dict[str, Any]:
    return _cfg(
        10, url=f'{_ORIGIN}/raw/master/pretrained_models/{filename}', license='bsd-2-clause', origin_url=_ORIGIN)


default_cfgs = generate_default_cfgs({
    **{f'resnet{depth}_cifar10.akamaster': _published(filename) for depth, (filename, _) in _PUBLISHED.items()},
    **{f'resnet{depth}_cifar100': _cfg(100) for depth in _PUBLISHED}})


def _entrypoint(name: str, depth: int, text: str) -> Callable[..., nn.Module]:
    """The function that timm calls to create the network of a name."""
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            ResNetCifar, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg=dict(out_indices=(0, 1, 2, 3)), **{'layers': ((depth - 2) // 6,) * 3, **kwargs})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f'ResNet-{depth} for 32x32 images. {text}'
    return create


for _depth, (_, _top1) in _PUBLISHED.items():
    for _name, _text in ((f'resnet{_depth}_cifar10', f'Published CIFAR-10 top-1: {_top1:.2f} %.'),
                         (f'resnet{_depth}_cifar100', '100 classes, without weights.')):
        globals()[_name] = register_model(_entrypoint(_name, _depth, _text))
