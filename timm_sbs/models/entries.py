"""The ``sbs_*`` entries, and ``sbs`` for any predictor that has no entry of its own."""
from typing import Any, Dict, Optional

from timm.models import generate_default_cfgs, register_model
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


default_cfgs = generate_default_cfgs({
    **{name: _cifar10_cfg(name) for name in (
        'sbs_resnet20_cifar10_42pct',
        'sbs_resnet20_cifar10_33pct',
        'sbs_resnet20_cifar10_24pct',
        'sbs_resnet56_cifar10_27pct',
    )},
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
def sbs(pretrained: bool = False, base: Optional[str] = None, **kwargs: Any) -> nn.Module:
    """The architecture of every predictor's config.json: ``base`` with weights from the predictor beside it."""
    return create_generated('sbs', base, pretrained, **kwargs)
