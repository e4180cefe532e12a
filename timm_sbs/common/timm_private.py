"""Private helpers of timm that this package uses. tests/common/test_timm_private.py says so if one of them moves."""
from timm.data.transforms import MaybeToTensor
from timm.models._features import feature_take_indices
from timm.models._registry import _deprecated_models as hidden_models  # names that list_models leaves out

__all__ = ['MaybeToTensor', 'feature_take_indices', 'hidden_models']
