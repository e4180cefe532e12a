"""The private helpers of timm that this package uses. tests/test_timm_private.py says so if timm moves one of them."""
from timm.models._features import feature_take_indices

__all__ = ['feature_take_indices']
