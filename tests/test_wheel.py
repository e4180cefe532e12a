"""The wheel is all that a user needs: built, and installed without the sources, it trains, loads, and runs the demo."""
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import zipfile

import pytest
from conftest import REPOSITORY, RESNET20

TRAIN = ['--model', 'resnet20_cifar10', '--initial-checkpoint', str(RESNET20), '--pct', '10',
         '--reconstruction-steps', '20', '--mixed-precision', 'no']
LOAD = """
import sys, timm, timm_sbs
assert timm_sbs.__file__.startswith(sys.prefix), timm_sbs.__file__
model = timm.create_model('local-dir:' + sys.argv[1], pretrained=True)
print(sum(p.numel() for p in model.parameters()), timm_sbs.load(sys.argv[1]).base.name)
"""


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env={**environment, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from a copy, for builds leave files behind."""
    source, output = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('pyproject.toml', 'README.md', 'LICENSE', 'NOTICE'):
        shutil.copy(REPOSITORY / name, source / name)
    shutil.copytree(REPOSITORY / 'timm_sbs', source / 'timm_sbs', ignore=shutil.ignore_patterns('__pycache__'))
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-index', '--no-build-isolation', source,
        '--wheel-dir', output, cwd=output)
    [found] = output.glob('*.whl')
    return found


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel. It borrows the dependencies of this one, but not the package."""
    folder = tmp_path_factory.mktemp('environment')
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd='/')
    python = folder / 'bin' / 'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--no-index', wheel,
        cwd='/')
    own = run(python, '-c', "import sysconfig; print(sysconfig.get_path('purelib'))", cwd='/').strip()
    with open(os.path.join(own, 'dependencies.pth'), 'w') as file:
        file.write('\n'.join(site.getsitepackages()) + '\n')
    return folder


def test_it_holds_what_it_should_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ('timm_sbs/train.py', 'timm_sbs/py.typed', 'timm_sbs/artifact/card.md',
                 'timm_sbs/training/recipes/imagenet.yaml',
                 'timm_sbs/artifact/shipped/sbs_resnet18_15pct/LICENSE', 'timm_sbs/cli/demo_data/rocket.jpg'):
        assert name in names
    assert all(name.startswith(('timm_sbs/', 'timm_sbs-')) for name in names)
    assert wheel.stat().st_size < 10_000_000


def test_the_demo(environment, tmp_path):
    shown = run(environment / 'bin' / 'timm-sbs', 'demo', cwd=tmp_path)
    assert 'sbs_resnet20_cifar10_42pct' in shown and 'coffee' in shown.lower()


def test_the_command_trains_and_what_it_made_is_loaded(environment, tmp_path):
    run(environment / 'bin' / 'timm-sbs', 'train', *TRAIN, '--output', 'out', cwd=tmp_path)
    told = run(environment / 'bin' / 'python', '-c', LOAD, 'out', cwd=tmp_path)
    assert told.split() == ['269722', 'resnet20_cifar10']


def test_accelerate_launches_the_module(environment, tmp_path):
    assert importlib.util.find_spec('accelerate')
    run(environment / 'bin' / 'python', '-m', 'accelerate.commands.launch', '--num_processes', '1',
        '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no', '-m', 'timm_sbs.train', *TRAIN,
        '--output', 'out', cwd=tmp_path)
    assert (tmp_path / 'out' / 'model.safetensors').is_file()
