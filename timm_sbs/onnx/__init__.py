"""ONNX models that compute their weights, when a runtime loads them, from what an artifact stores.

May import ``common``, ``predictor`` and ``codec``. Needs the 'onnx' extra.
"""
from importlib.util import find_spec

from timm_sbs.common.errors import MissingExtraError

for _name in ('onnx', 'onnxscript'):
    _spec = find_spec(_name)
    if _spec is None or _spec.origin is None:  # a mere folder of this name is no package
        raise MissingExtraError(f"ONNX models need {_name}: pip install 'timm_sbs[onnx]', or '.[onnx]' in a checkout.")
