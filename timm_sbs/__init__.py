"""Generate a CNN's convolution weights, on load, with a small predictor. ``import timm_sbs`` registers its models."""
from timm_sbs import models
from timm_sbs.errors import SbsError

__version__ = '0.1.0'
__all__ = ['SbsError', 'models', '__version__']
