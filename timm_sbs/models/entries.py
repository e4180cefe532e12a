"""The ``sbs_*`` entries, and ``sbs`` for any predictor that has no entry of its own."""
from typing import Any, Dict, Optional

from timm.models import filter_pretrained_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from timm_sbs.models._load import create_generated

__all__ = []


def _cifar10_cfg(name: str) -> Dict[str, Any]:
    return dict(
        hf_hub_id=f'timm-sbs/{name}',
        num_classes=10, input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, interpolation='bilinear',
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), first_conv='conv1', classifier='linear',
        license='bsd-2-clause', paper_ids='arXiv:2509.07373',
    )


def _cfg_of(base: str, name: str) -> Dict[str, Any]:
    """timm's description of a base's default weights, which are those that the entry is to be fitted to."""
    cfg = filter_pretrained_cfg(get_pretrained_cfg(base).to_dict(), remove_source=True)
    for field in ('architecture', 'tag', 'custom_load', 'state_dict', 'origin_url', 'notes'):
        cfg.pop(field, None)
    return {**cfg, 'hf_hub_id': f'timm-sbs/{name}', 'paper_ids': 'arXiv:2509.07373'}


# Sizes: 15 % is the paper's for ResNets. A third of MobileNetV3 and EfficientNet-Lite0 is classifier, stem and norms,
# and what is left are 1x1 convolutions, which compress worse (README, results): 30 %.
_IMAGENET = {
    'sbs_resnet18_15pct': 'resnet18',
    'sbs_resnet34_15pct': 'resnet34',
    'sbs_resnet50_15pct': 'resnet50',
    'sbs_convnext_tiny_15pct': 'convnext_tiny',
    'sbs_mobilenetv3_large_100_30pct': 'mobilenetv3_large_100',
    'sbs_tf_efficientnet_lite0_30pct': 'tf_efficientnet_lite0',
}

default_cfgs = generate_default_cfgs({
    **{name: _cifar10_cfg(name) for name in (
        'sbs_resnet20_cifar10_42pct',
        'sbs_resnet20_cifar10_33pct',
        'sbs_resnet20_cifar10_24pct',
        'sbs_resnet56_cifar10_27pct',
    )},
    **{name: _cfg_of(base, name) for name, base in _IMAGENET.items()},
    'sbs': {},
})


@register_model
def sbs_resnet20_cifar10_42pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR-10 from a predictor of 42 % of its parameters, in 78 kB that ship inside the package."""
    return create_generated('sbs_resnet20_cifar10_42pct', 'resnet20_cifar10', pretrained, **kwargs)


@register_model
def sbs_resnet20_cifar10_33pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR-10 from a predictor of 33 % of its parameters, in 62 kB that ship inside the package."""
    return create_generated('sbs_resnet20_cifar10_33pct', 'resnet20_cifar10', pretrained, **kwargs)


@register_model
def sbs_resnet20_cifar10_24pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR-10 from a predictor of 24 % of its parameters, in 47 kB that ship inside the package."""
    return create_generated('sbs_resnet20_cifar10_24pct', 'resnet20_cifar10', pretrained, **kwargs)


@register_model
def sbs_resnet56_cifar10_27pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-56 for CIFAR-10 from a predictor of 27 % of its parameters, in 155 kB that ship inside the package."""
    return create_generated('sbs_resnet56_cifar10_27pct', 'resnet56_cifar10', pretrained, **kwargs)


@register_model
def sbs_resnet18_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 for ImageNet from a predictor of 15 % of its parameters."""
    return create_generated('sbs_resnet18_15pct', _IMAGENET['sbs_resnet18_15pct'], pretrained, **kwargs)


@register_model
def sbs_resnet34_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 for ImageNet from a predictor of 15 % of its parameters."""
    return create_generated('sbs_resnet34_15pct', _IMAGENET['sbs_resnet34_15pct'], pretrained, **kwargs)


@register_model
def sbs_resnet50_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 for ImageNet from a predictor of 15 % of its parameters."""
    return create_generated('sbs_resnet50_15pct', _IMAGENET['sbs_resnet50_15pct'], pretrained, **kwargs)


@register_model
def sbs_convnext_tiny_15pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-Tiny for ImageNet from a predictor of 15 % of its parameters."""
    return create_generated('sbs_convnext_tiny_15pct', _IMAGENET['sbs_convnext_tiny_15pct'], pretrained, **kwargs)


@register_model
def sbs_mobilenetv3_large_100_30pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV3-Large for ImageNet from a predictor of 30 % of its parameters."""
    return create_generated('sbs_mobilenetv3_large_100_30pct', _IMAGENET['sbs_mobilenetv3_large_100_30pct'], pretrained, **kwargs)


@register_model
def sbs_tf_efficientnet_lite0_30pct(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0 for ImageNet from a predictor of 30 % of its parameters."""
    return create_generated('sbs_tf_efficientnet_lite0_30pct', _IMAGENET['sbs_tf_efficientnet_lite0_30pct'], pretrained, **kwargs)


@register_model
def sbs(pretrained: bool = False, base: Optional[str] = None, **kwargs: Any) -> nn.Module:
    """The architecture of every predictor's config.json: ``base`` with weights from the predictor beside it."""
    return create_generated('sbs', base, pretrained, **kwargs)
