"""From a trained model and settings to an artifact: ``fit`` is the function; what a run decides, does and writes.

May import all packages but ``models``, ``plots`` and ``cli``. Needs the 'train' extra.
"""
from importlib.util import find_spec

from timm_sbs.common.errors import MissingExtraError

for _name in ('accelerate', 'numba', 'scipy', 'tyro', 'yaml'):
    if find_spec(_name) is None:
        raise MissingExtraError(f"Training needs {_name}: pip install 'timm_sbs[train]', or '.[train]' in a checkout.")
