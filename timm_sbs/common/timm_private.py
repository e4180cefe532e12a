"""Private helpers of timm that this package uses. tests/common/test_timm_private.py says so if one of them moves."""
from timm.data.transforms import MaybeToTensor
from timm.models._features import feature_take_indices

__all__ = ['MaybeToTensor', 'feature_take_indices']
