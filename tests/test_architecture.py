"""Rooms import only rooms before them, keep optional dependencies to themselves, and their files say what they are."""
import ast
import re
from pathlib import Path

import timm_sbs

PACKAGE = Path(timm_sbs.__file__).parent
# From the ground up: a room may import those before it.
ROOMS = ('common', 'predictor', 'codec', 'artifact', 'models', 'data', 'training', 'plots', 'cli')
ONLY_IN = {
    'accelerate': ('common.distributed', 'data', 'training', 'train'), 'constriction': ('codec',),
    'matplotlib': ('plots',), 'numba': ('training',), 'scipy': ('training',), 'tyro': ('training', 'cli'),
    'yaml': ('plots', 'training'),
    # Private modules of timm, whose moves one file follows.
    'timm.models._': ('common.timm_private',), 'timm.layers.': ('common.timm_private',),
    'timm.data.': ('common.timm_private',),
}


def imports():
    """Module, in dots, and what it imports, wherever in the file: 'a.b' for 'from a import b'."""
    for path in PACKAGE.rglob('*.py'):
        name = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((name, node.module, f'{node.module}.{alias.name}') for alias in node.names)


def test_rooms_import_those_before_them():
    """And a room's docstring names all that it may import; nothing but the command imports what is in no room."""
    allowed = {}
    for room in ROOMS:
        rights = ast.get_docstring(ast.parse((PACKAGE / room / '__init__.py').read_text())).split('May import ')[1]
        sentence = re.split(r'\.(?: |$|\n)', rights)[0]
        named = set(re.findall(r'``(\w+)``', sentence))
        allowed[room] = {room} | (set(ROOMS) - named if sentence.startswith('all rooms') else named)
        assert all(ROOMS.index(other) <= ROOMS.index(room) for other in allowed[room]), room
    for name, _, imported in imports():
        room, target = name.split('.')[0], imported.split('.')
        if room in ROOMS and room != 'cli' and target[0] == 'timm_sbs':
            assert target[1:] and target[1] in allowed[room], f'{name} imports {imported}'
    assert {path.name for path in PACKAGE.iterdir()} - {'__pycache__'} == {
        *ROOMS, '__init__.py', '__main__.py', 'train.py', 'py.typed'}


def test_optional_dependencies_and_private_modules_stay_in_their_rooms():
    for name, module, _ in imports():
        for prefix, rooms in ONLY_IN.items():
            if module == prefix or module.startswith(prefix if prefix.endswith(('.', '_')) else f'{prefix}.'):
                assert any(name == room or name.startswith(f'{room}.') for room in rooms), f'{name} imports {module}'


def test_files_are_small_and_say_what_they_are():
    for path in [*PACKAGE.rglob('*.py'), *Path(__file__).parent.rglob('*.py')]:
        text = path.read_text(encoding='utf-8')
        assert ast.get_docstring(ast.parse(text)) or PACKAGE not in path.parents, path
        assert len(text.splitlines()) <= 320, path
