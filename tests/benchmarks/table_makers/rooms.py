"""The rooms of the package and the arrows between them, read off its imports."""
import ast
from collections.abc import Iterator
from pathlib import Path

from table_makers.sources import REPOSITORY

__all__ = ['MAKERS', 'ROOMS', 'arrows', 'room_of', 'imported_modules']

PACKAGE = REPOSITORY / 'timm_sbs'
# From the ground up: a room may import those before it.
ROOMS = ('common', 'predictor', 'codec', 'artifact', 'models', 'data', 'training', 'plots', 'cli')


def room_of(module: str) -> str | None:
    """Room of a dotted module name of the package; None for what lies outside the rooms."""
    parts = module.split('.')
    return parts[1] if parts[0] == PACKAGE.name and len(parts) > 1 and parts[1] in ROOMS else None


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it: 'a.b' for 'from a import b' too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def arrows() -> dict[str, set[str]]:
    """For each room, the others that its files import."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for room in ROOMS:
        for path in (PACKAGE / room).rglob('*.py'):
            found[room] |= {target for name in imported_modules(path) if (target := room_of(name)) and target != room}
    return found


def _purpose(room: str) -> str:
    """The first sentence of a room's docstring, which says what it is for."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / '__init__.py').read_text(encoding='utf-8'))) or ''
    return ' '.join(text.split('\n\n')[0].split())


def _drawing() -> list[str]:
    """A row for each room, an x below each room that it imports. All lie left of its own place, marked by its name."""
    found, width = arrows(), max(map(len, ROOMS))
    lines = ['```text']
    for index, room in enumerate(ROOMS):
        cells = ''.join(f"{'x' if other in found[room] else '.':^{width + 1}}" for other in ROOMS[:index])
        lines.append(f'{cells}[{room}]')
    return [*lines, '```']


def _rooms() -> list[str]:
    rows = ['| room | what it is for |', '|---|---|']
    return [*rows, *(f"| `{room}` | {_purpose(room).replace('``', '`')} |" for room in ROOMS)]


MAKERS = {'room_drawing': _drawing, 'rooms': _rooms}
