"""Models that importing timm_sbs adds to timm: the CIFAR ResNets, the ``sbs_*`` entries and the generic ``sbs``."""
from timm_sbs.models import entries, resnet_cifar
from timm_sbs.models._load import embedded_folder

__all__ = ['entries', 'resnet_cifar', 'embedded_folder']
