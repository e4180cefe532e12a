"""A third of a ResNet-20, for runs whose accuracy no test looks at: the first block of each stage, and its weights."""
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file, save_file
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from timm_sbs.models.resnet_cifar import ResNetCifar

NAME = 'resnet8_cifar10'
_DESCRIPTION = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
_KEPT = (
    'num_classes', 'input_size', 'pool_size', 'crop_pct', 'interpolation', 'mean', 'std', 'first_conv', 'classifier',
    'license')
default_cfgs = generate_default_cfgs({NAME: {name: _DESCRIPTION[name] for name in _KEPT}})


@register_model
def resnet8_cifar10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        ResNetCifar, NAME, pretrained, layers=(1, 1, 1),
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'), **kwargs)


def write_weights(path: Path, resnet20: Path) -> Path:
    """Cut them out of the ResNet-20's."""
    weights, names = load_file(resnet20), timm.create_model(NAME).state_dict()
    save_file({name: tensor for name, tensor in weights.items() if name in names}, path)
    return path
