"""What importing timm_sbs adds to timm: the ``sbs_*`` entries, the generic ``sbs``, and the CIFAR ResNets.

May import ``common``, ``predictor`` and ``artifact``.
"""
from timm_sbs.models import entries, resnet_cifar

__all__ = ['entries', 'resnet_cifar']
