"""Importing the package registers models, and does nothing else."""
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import timm_sbs

IMPORTED = '''
import json, sys
extras = ('accelerate', 'numba', 'scipy')
for name in (*extras, 'matplotlib'):
    sys.modules[name] = None
import timm
before = set(sys.modules)
import timm_sbs
print(json.dumps([sorted(set(sys.modules) - before), timm.list_models('sbs*')]))
import timm_sbs.cli.main
model = timm.create_model('sbs_resnet20_cifar10_20pct', pretrained=True)
print(model.num_classes, timm_sbs.load('sbs_resnet20_cifar10_30kb').base.name)
'''
TRAINER = '''
import sys
extras = ('accelerate', 'numba', 'scipy')
for missing in extras:
    for name in extras:
        sys.modules.pop(name, None)
    sys.modules[missing] = None
    from timm_sbs.train import main
    print(main(['--help']))
'''


def fresh(code):
    """What a process prints that has imported nothing yet."""
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/')


def test_importing_brings_what_registering_needs_and_loading_needs_no_extra():
    done = fresh(IMPORTED)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    modules, names = json.loads(first)
    assert last == '10 resnet20_cifar10'
    assert {name for name in modules if name.startswith('timm_sbs')} == {
        'timm_sbs', 'timm_sbs.common', 'timm_sbs.common.entries', 'timm_sbs.common.errors',
        'timm_sbs.common.version', 'timm_sbs.models', 'timm_sbs.models.entries',
        'timm_sbs.models.resnet_cifar'}
    assert not [name for name in modules if not name.startswith('timm_sbs')]
    assert 'sbs_resnet18_15pct' in names


def test_the_trainer_names_its_extra():
    done = fresh(TRAINER)
    assert done.stdout.split() == ['2'] * 3, done.stderr
    assert [line.count("pip install 'timm_sbs[train]'") for line in done.stderr.splitlines()] == [1] * 3


def test_type_checkers_see_what_is_imported_later():
    tree = ast.parse(Path(timm_sbs.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    assert block.test.id == 'TYPE_CHECKING'
    assert {alias.name: node.module for node in block.body for alias in node.names} == timm_sbs._LAZY


def test_public_names_are_listed_and_found():
    assert set(timm_sbs.__all__) == {'Artifact', 'SbsError', '__version__', 'fit', 'load'}
    assert set(timm_sbs.__all__) <= set(dir(timm_sbs))
    from timm_sbs.artifact.artifact import Artifact
    from timm_sbs.artifact.folder import load
    assert (timm_sbs.Artifact, timm_sbs.load) == (Artifact, load)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        timm_sbs.nothing
