"""Generate a CNN's convolution weights, on load, with a small predictor. ``import timm_sbs`` registers its models."""
from timm_sbs import models
from timm_sbs.errors import SbsError
from timm_sbs.publish import push_to_hub

__version__ = '0.1.0'
__all__ = ['SbsError', 'models', 'push_to_hub', '__version__']
