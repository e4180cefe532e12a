"""The rooms of the package and what each imports, read off its files."""
import ast
import re

from table_makers.sources import REPOSITORY, markdown

PACKAGE = REPOSITORY / 'timm_sbs'
# From the ground up: a room may import those before it.
ROOMS = ('common', 'predictor', 'codec', 'artifact', 'models', 'data', 'training', 'plots', 'cli')


def _imported(room: str) -> list[str]:
    """Other rooms that the files of a room import."""
    text = '\n'.join(path.read_text(encoding='utf-8') for path in (PACKAGE / room).rglob('*.py'))
    found = set(re.findall(r'^\s*(?:from|import) timm_sbs\.(\w+)', text, flags=re.MULTILINE))
    return [other for other in ROOMS if other in found - {room}]


def _purpose(room: str) -> str:
    """The first paragraph of a room's docstring, which says what it is for."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / '__init__.py').read_text(encoding='utf-8'))) or ''
    return ' '.join(text.split('\n\n')[0].split()).replace('``', '`')


def rooms() -> list[str]:
    return markdown(['room', 'what it is for', 'imports'], [
        (f'`{room}`', _purpose(room), ', '.join(_imported(room))) for room in ROOMS])


MAKERS = {'rooms': rooms}
