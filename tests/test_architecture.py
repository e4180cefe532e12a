"""Packages import only those before them, keep optional dependencies to themselves, and say what they are."""
import ast
import re
from pathlib import Path

import timm_sbs

PACKAGE = Path(timm_sbs.__file__).parent
# From the ground up: a package may import those before it.
PACKAGES = ('common', 'predictor', 'codec', 'onnx', 'artifact', 'models', 'web', 'data', 'training', 'plots', 'cli')
ONLY_IN = {
    'accelerate': ('common.distributed', 'data', 'training', 'train'), 'brotli': ('web',), 'constriction': ('codec',),
    'matplotlib': ('plots',), 'numba': ('training',), 'onnx': ('onnx',), 'onnxruntime': ('onnx',),
    'scipy': ('training',), 'tyro': ('training', 'cli'), 'yaml': ('training',),
    # Private modules of timm.
    'timm.models._': ('models.entries', 'models.resnet_cifar'), 'timm.layers.': (),
    'timm.data.': (),
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


def test_packages_import_those_before_them():
    """And a package's docstring names all that it may import; nothing but the command imports what is in no package."""
    allowed = {}
    for package in PACKAGES:
        rights = ast.get_docstring(ast.parse((PACKAGE / package / '__init__.py').read_text())).split('May import ')[1]
        sentence = re.split(r'\.(?: |$|\n)', rights)[0]
        named = set(re.findall(r'``(\w+)``', sentence))
        allowed[package] = {package} | (set(PACKAGES) - named if sentence.startswith('all packages') else named)
        assert all(PACKAGES.index(other) <= PACKAGES.index(package) for other in allowed[package]), package
    for name, _, imported in imports():
        package, target = name.split('.')[0], imported.split('.')
        if package in PACKAGES and package != 'cli' and target[0] == 'timm_sbs':
            assert target[1:] and target[1] in allowed[package], f'{name} imports {imported}'
    assert {path.name for path in PACKAGE.iterdir()} - {'__pycache__'} == {
        *PACKAGES, '__init__.py', '__main__.py', 'train.py', 'py.typed'}


def test_optional_dependencies_and_private_modules_stay_where_they_are():
    for name, module, _ in imports():
        for prefix, packages in ONLY_IN.items():
            if module == prefix or module.startswith(prefix if prefix.endswith(('.', '_')) else f'{prefix}.'):
                assert any(f'{name}.'.startswith(f'{package}.') for package in packages), f'{name} imports {module}'


def test_files_are_small_and_say_what_they_are():
    for path in [*PACKAGE.rglob('*.py'), *Path(__file__).parent.rglob('*.py')]:
        text = path.read_text(encoding='utf-8')
        assert ast.get_docstring(ast.parse(text)) or PACKAGE not in path.parents, path
        assert len(text.splitlines()) <= 320, path
