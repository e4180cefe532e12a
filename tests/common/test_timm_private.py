"""Everything that this package takes from timm's private modules, so that a move shows here first."""
import ast
from pathlib import Path

import timm
from conftest import REPOSITORY

import timm_sbs

PACKAGE = Path(timm_sbs.__file__).parent


def test_private_helpers_are_where_timm_had_them():
    from timm_sbs.common.timm_private import feature_take_indices, hidden_models
    assert feature_take_indices(4, [1, 3]) == ([1, 3], 3), 'timm changed feature_take_indices'
    assert 'sbs' in hidden_models and 'sbs' not in timm.list_models(), 'timm changed how it hides names'


def test_private_modules_of_timm_are_imported_in_one_place():
    for path in [*PACKAGE.rglob('*.py'), REPOSITORY / 'train_sbs.py']:
        if path.name == 'timm_private.py':
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert not (module or '').startswith(('timm.models._', 'timm.layers.', 'timm.data.')), (path, module)
