"""The ``sbs_*`` entries, and ``sbs`` for any predictor that has no entry of its own."""
from dataclasses import dataclass
from typing import Any, Dict, Optional

from timm.models import filter_pretrained_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

import timm_sbs.models.resnet_cifar  # noqa: F401  (registers bases that entries describe)
from timm_sbs.models._load import create_generated

__all__ = ['Entry', 'ENTRIES']


@dataclass(frozen=True)
class Entry:
    """A named predictor: of which architecture and data, and how large."""
    base: str
    pct: int  # parameters of the predictor over all of the original's, rounded
    dataset: str  # of the original and of distillation, as the Hub names it
    weights: Optional[str] = None  # timm's name of weights that are read as the original's are; None: the default ones
    license: Optional[str] = None  # of the original's weights, and so of the predictor; None: as timm says


# 15 % is the paper's size for ResNets. A third of MobileNetV3 and EfficientNet-Lite0 is classifier, stem and norms, and
# what is left are 1x1 convolutions, which compress worse (README, results): 30 %.
ENTRIES = {
    'sbs_resnet20_cifar10_42pct': Entry('resnet20_cifar10', 42, 'cifar10'),
    'sbs_resnet20_cifar10_33pct': Entry('resnet20_cifar10', 33, 'cifar10'),
    'sbs_resnet20_cifar10_24pct': Entry('resnet20_cifar10', 24, 'cifar10'),
    'sbs_resnet56_cifar10_26pct': Entry('resnet56_cifar10', 26, 'cifar10'),
    'sbs_resnet18_15pct': Entry(
        'resnet18', 15, 'imagenet-1k', weights='resnet18.tv_in1k', license='cc-by-nc-4.0'),
    'sbs_resnet18_15pct_small': Entry(
        'resnet18', 15, 'imagenet-1k', weights='resnet18.tv_in1k', license='cc-by-nc-4.0'),
    'sbs_resnet34_15pct': Entry('resnet34', 15, 'imagenet-1k'),
    'sbs_resnet50_15pct': Entry('resnet50', 15, 'imagenet-1k'),
    'sbs_convnext_tiny_15pct': Entry('convnext_tiny', 15, 'imagenet-1k'),
    'sbs_mobilenetv3_large_100_30pct': Entry('mobilenetv3_large_100', 30, 'imagenet-1k'),
    'sbs_tf_efficientnet_lite0_30pct': Entry('tf_efficientnet_lite0', 30, 'imagenet-1k'),
}


def _default_cfg(name: str, entry: Entry) -> Dict[str, Any]:
    """timm's description of the weights that the entry is fitted to."""
    cfg = filter_pretrained_cfg(get_pretrained_cfg(entry.weights or entry.base).to_dict(), remove_source=True)
    cfg['license'] = entry.license or cfg.get('license')
    for field in ('architecture', 'tag', 'custom_load', 'state_dict', 'origin_url', 'notes', 'paper_name'):
        cfg.pop(field, None)
    return {**cfg, 'hf_hub_id': f'timm-sbs/{name}', 'paper_ids': 'arXiv:2509.07373'}


default_cfgs = generate_default_cfgs({
    **{name: _default_cfg(name, entry) for name, entry in ENTRIES.items()},
    'sbs': {},
})


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return create_generated(name, ENTRIES[name].base, pretrained, **kwargs)


@register_model
def sbs_resnet20_cifar10_42pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR-10 from a predictor of 42 % of its parameters, in 78 kB that ship inside the package."""
    return _create('sbs_resnet20_cifar10_42pct', pretrained, **kwargs)


@register_model
def sbs_resnet20_cifar10_33pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR-10 from a predictor of 33 % of its parameters, in 62 kB that ship inside the package."""
    return _create('sbs_resnet20_cifar10_33pct', pretrained, **kwargs)


@register_model
def sbs_resnet20_cifar10_24pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR-10 from a predictor of 24 % of its parameters, in 47 kB that ship inside the package."""
    return _create('sbs_resnet20_cifar10_24pct', pretrained, **kwargs)


@register_model
def sbs_resnet56_cifar10_26pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-56 for CIFAR-10 from a predictor of 26 % of its parameters, in 150 kB that ship inside the package."""
    return _create('sbs_resnet56_cifar10_26pct', pretrained, **kwargs)


@register_model
def sbs_resnet18_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 for ImageNet from a predictor of 15 % of its parameters, in 4.2 MB that ship inside the package.

    CC BY-NC 4.0: not for commercial use.
    """
    return _create('sbs_resnet18_15pct', pretrained, **kwargs)


@register_model
def sbs_resnet18_15pct_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As sbs_resnet18_15pct, with kernels ordered within each filter, in 2.8 MB that ship inside the package.

    CC BY-NC 4.0: not for commercial use.
    """
    return _create('sbs_resnet18_15pct_small', pretrained, **kwargs)


@register_model
def sbs_resnet34_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 for ImageNet from a predictor of 15 % of its parameters."""
    return _create('sbs_resnet34_15pct', pretrained, **kwargs)


@register_model
def sbs_resnet50_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 for ImageNet from a predictor of 15 % of its parameters."""
    return _create('sbs_resnet50_15pct', pretrained, **kwargs)


@register_model
def sbs_convnext_tiny_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-Tiny for ImageNet from a predictor of 15 % of its parameters."""
    return _create('sbs_convnext_tiny_15pct', pretrained, **kwargs)


@register_model
def sbs_mobilenetv3_large_100_30pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV3-Large for ImageNet from a predictor of 30 % of its parameters."""
    return _create('sbs_mobilenetv3_large_100_30pct', pretrained, **kwargs)


@register_model
def sbs_tf_efficientnet_lite0_30pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0 for ImageNet from a predictor of 30 % of its parameters."""
    return _create('sbs_tf_efficientnet_lite0_30pct', pretrained, **kwargs)


@register_model
def sbs(pretrained: bool = False, base: Optional[str] = None, **kwargs: Any) -> nn.Module:
    """The architecture of every predictor's config.json: ``base`` with weights from the predictor beside it."""
    return create_generated('sbs', base, pretrained, **kwargs)
