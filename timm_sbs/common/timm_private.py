"""Private helpers of timm that this package uses: the one place that changes if timm moves them."""
from timm.models._features import feature_take_indices
from timm.models._registry import _deprecated_models as hidden_models  # names that list_models leaves out

__all__ = ['feature_take_indices', 'hidden_models']
