"""The packages of timm_sbs and what each imports, read off its files."""
import ast
import re

from table_makers.sources import REPOSITORY, markdown

PACKAGE = REPOSITORY / 'timm_sbs'
# From the ground up: a package may import those before it.
PACKAGES = ('common', 'predictor', 'codec', 'onnx', 'artifact', 'models', 'web', 'data', 'training', 'plots', 'cli')


def _imported(package: str) -> list[str]:
    """Other packages that the files of a package import."""
    text = '\n'.join(path.read_text(encoding='utf-8') for path in (PACKAGE / package).rglob('*.py'))
    found = set(re.findall(r'^\s*(?:from|import) timm_sbs\.(\w+)', text, flags=re.MULTILINE))
    return [other for other in PACKAGES if other in found - {package}]


def _purpose(package: str) -> str:
    """The first paragraph of a package's docstring, which says what it is for."""
    text = ast.get_docstring(ast.parse((PACKAGE / package / '__init__.py').read_text(encoding='utf-8'))) or ''
    return ' '.join(text.split('\n\n')[0].split()).replace('``', '`')


def packages() -> list[str]:
    return markdown(['package', 'what it is for', 'imports'], [
        (f'`{package}`', _purpose(package), ', '.join(_imported(package))) for package in PACKAGES])


MAKERS = {'packages': packages}
