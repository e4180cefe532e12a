"""Python runs this first in processes that a script of ``timm-sbs run`` starts, since its folder is on PYTHONPATH.

When such a process imports timm, it imports timm_sbs, too. Nothing else changes in it: another sitecustomize that is
there is run as if this one were not, and nothing is imported by those that do not import timm.
"""
import os
import sys
import warnings
from importlib import import_module
from typing import Any

FOLDER = os.path.dirname(os.path.abspath(__file__))
PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(FOLDER)))


class AfterTimm:
    """A finder that adds an import of timm_sbs to the end of timm's own."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != 'timm':
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec), None)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                import_timm_sbs()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def import_timm_sbs() -> None:
    if PACKAGES not in sys.path:
        sys.path.append(PACKAGES)  # the parent may have found the package in its working directory
    try:
        import timm_sbs  # noqa: F401
    except ImportError as e:  # by another Python
        warnings.warn(f'The models of timm_sbs are unknown here, for it cannot be imported: {e}', stacklevel=1)


sys.meta_path.insert(0, AfterTimm())
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != FOLDER]
ours = sys.modules.pop('sitecustomize')
try:
    import_module('sitecustomize')
except ModuleNotFoundError as e:
    if e.name != 'sitecustomize':
        raise
    sys.modules['sitecustomize'] = ours
