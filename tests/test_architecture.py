"""Rooms import only rooms before them, say what they may import, and keep optional dependencies to themselves."""
import ast
import re
import sys
from pathlib import Path

import pytest
from conftest import RESULTS

import timm_sbs

sys.path.insert(0, str(RESULTS.parent))
from table_makers.rooms import ROOMS, arrows, imported_modules, room_of

PACKAGE = Path(timm_sbs.__file__).parent
DOORS = {'__init__.py', '__main__.py', 'train.py'}
MARKS = {'py.typed'}  # types are annotated
TRAINING = ('options', 'losses', 'steps', 'design', 'run', 'fit')  # folders of the room, and its function
ONLY_IN = {
    'accelerate': ('common.distributed', 'common.progress', 'data', 'training', 'train'),
    'constriction': ('codec.entropy', 'codec.streams'), 'matplotlib': ('plots',),
    'numba': ('training.design.two_opt',), 'scipy': ('training.design.paths',),
    'torchvision': ('data.augmentation',), 'yaml': ('plots.artifacts', 'training.options.parsing'),
}


def name_of(path):
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


def test_there_is_nothing_beside_the_rooms():
    found = {path.name for path in PACKAGE.iterdir() if path.name != '__pycache__'}
    assert found == {*ROOMS, *DOORS, *MARKS} and len(ROOMS) <= 10


def test_imports_point_one_way():
    for room, targets in arrows().items():
        for target in targets:
            assert ROOMS.index(target) < ROOMS.index(room), f'{room} imports {target}'
    for path in PACKAGE.rglob('*.py'):
        if path.parent != PACKAGE and not path.is_relative_to(PACKAGE / 'cli'):  # rooms know nothing of the doors
            assert not from_doors(path), path


def from_doors(path):
    """What a file imports of the package that is in no room."""
    return [name for name in imported_modules(path) if name.split('.')[0] == 'timm_sbs' and not room_of(name)]


@pytest.mark.parametrize('line, found', [
    ('from timm_sbs import load', ['timm_sbs.load']), ('import timm_sbs', ['timm_sbs']),
    ('from timm_sbs.train import main', ['timm_sbs.train.main']), ('import timm_sbs.train', ['timm_sbs.train']),
    ('from timm_sbs.common import cache', []), ('import timm', []),
    ('from timm_sbs.common.errors import SbsError', [])])
def test_imports_from_doors_are_found(tmp_path, line, found):
    (tmp_path / 'file.py').write_text(f'def function():\n    {line}\n')
    assert from_doors(tmp_path / 'file.py') == found


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_says_what_it_is_for_and_imports_no_more_than_it_says(room):
    text = ast.get_docstring(ast.parse((PACKAGE / room / '__init__.py').read_text(encoding='utf-8')))
    purpose, rights = text.split('\n\n')
    [sentence] = re.findall(r'May import (.*?)\.(?= |$|\n)', rights, flags=re.DOTALL)
    named = set(re.findall(r'``(\w+)``', sentence))
    if sentence.startswith('all rooms'):
        allowed = set(ROOMS) - named
    else:
        allowed = named
        assert bool(named) != (sentence == 'nothing of this package')
    assert purpose and arrows()[room] <= allowed


def test_folders_of_the_trainer_have_an_order():
    for path in (PACKAGE / 'training').rglob('*.py'):
        own = name_of(path).split('.')[1]
        if own == '__init__':
            continue
        for name in imported_modules(path):
            if room_of(name) == 'training':
                assert TRAINING.index(name.split('.')[2]) <= TRAINING.index(own), f'{path} imports {name}'


def test_optional_dependencies_stay_in_their_rooms():
    for path in PACKAGE.rglob('*.py'):
        for module in imported_modules(path):
            rooms = ONLY_IN.get(module.split('.')[0])
            if rooms:
                assert any(name_of(path) == room or name_of(path).startswith(f'{room}.') for room in rooms), path


def test_files_stay_small():
    for path in [*PACKAGE.rglob('*.py'), *Path(__file__).parent.rglob('*.py')]:
        assert len(path.read_text(encoding='utf-8').splitlines()) <= 320, path
