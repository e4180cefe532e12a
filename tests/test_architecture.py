"""Rooms import only what stands above them, and optional dependencies stay where they belong."""
import ast
import subprocess
import sys
from pathlib import Path

import timm_sbs

PACKAGE = Path(timm_sbs.__file__).parent
# From the ground up. A module may import those before it.
ROOMS = [
    'errors', '_timm', 'files', 'cache', 'config', 'base_model', 'targets', 'entropy', 'packing', 'ordering',
    'path_search', 'paths', 'encoding', 'predictor', 'generate', 'quantization', 'sizes', 'layout', 'artifact',
    'bits', 'repack', 'weights', 'evaluation', 'hub', 'models.resnet_cifar', 'models._load', 'models.entries',
    'models', 'cards', 'publish', '', 'demo', 'demo_photographs', 'info', 'export', 'plots.style', 'plots.artifacts',
    'plots.results', 'plots.photographs', 'plots', 'training', 'training.environment', 'training.settings',
    'training.optimizer', 'training.sharing',
    'training.losses', 'training.kept', 'training.feature_maps', 'training.original', 'training.forecast',
    'training.batches', 'training.data', 'training.mixing', 'training.image_size', 'training.synthetic',
    'training.precision', 'training.configuration',
    'training.arguments', 'training.monitor', 'training.orderings', 'training.features', 'training.reconstruction',
    'training.weight_generator', 'training.generated_model', 'training.objective', 'training.distillation',
    'training.weight_uses', 'training.statistics', 'training.divergence', 'training.second_order', 'training.fit',
    'training.budget', 'training.output', 'training.resume', 'training.checkpoints', 'training.images', 'training.run',
    'training.task',
    'training.calibration', 'training.phases', 'training.plan', 'cli', '__main__',
]
ONLY_IN = {
    'accelerate': ('training.',), 'constriction': ('entropy',), 'matplotlib': ('plots',), 'numba': ('path_search',),
    'scipy': ('paths',),
    'torchvision': ('training.data',), 'yaml': ('training.configuration',),
}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def test_every_module_is_a_room():
    assert sorted(name_of(path) for path in PACKAGE.rglob('*.py')) == sorted(ROOMS)


def test_imports_point_one_way():
    for path in PACKAGE.rglob('*.py'):
        room = name_of(path)
        for module, name in imported(path):
            if module.split('.')[0] != 'timm_sbs':
                continue
            target = '.'.join(module.split('.')[1:])
            inner = f'{target}.{name}' if target else name
            target = inner if inner in ROOMS else target
            assert ROOMS.index(target) < ROOMS.index(room), f'{room} imports {target}'


def test_optional_dependencies_stay_in_their_rooms():
    for path in PACKAGE.rglob('*.py'):
        for module, _ in imported(path):
            for package, rooms in ONLY_IN.items():
                if module.split('.')[0] == package:
                    assert name_of(path).startswith(rooms), f'{path} imports {package}'


def test_creating_a_model_needs_no_training_dependency():
    code = (
        "import sys\n"
        "for name in ('accelerate', 'numba', 'scipy'): sys.modules[name] = None\n"
        "import timm, timm_sbs, timm_sbs.cli\n"
        "timm.create_model('sbs_resnet20_cifar10_42pct', pretrained=True)\n"
        "try:\n"
        "    import timm_sbs.paths\n"
        "except timm_sbs.SbsError as e:\n"
        "    assert \"pip install 'timm_sbs[train]'\" in str(e)\n"
        "else:\n"
        "    raise SystemExit('no error')\n")
    subprocess.run([sys.executable, '-c', code], check=True, cwd='/')


def test_files_stay_small():
    for path in [*PACKAGE.rglob('*.py'), *Path(__file__).parent.rglob('*.py')]:
        assert len(path.read_text(encoding='utf-8').splitlines()) <= 320, path
