"""The wheel is all that a user needs: built, and installed without the sources, it trains, loads, and runs the demo."""
import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from configparser import ConfigParser

import pytest
from conftest import REPOSITORY, RESNET20

import timm_sbs

TRAIN = ['--model', 'resnet20_cifar10', '--initial-checkpoint', str(RESNET20), '--pct', '10',
         '--reconstruction-steps', '5', '--second-order-steps', '0', '--mixed-precision', 'no']
LOAD = """
import sys, timm, timm_sbs
assert timm_sbs.__file__.startswith(sys.prefix), timm_sbs.__file__
model = timm.create_model('local-dir:' + sys.argv[1], pretrained=True)
print(sum(p.numel() for p in model.parameters()), timm_sbs.load(sys.argv[1]).base.name)
"""
BUILD = 'import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])'  # as pip and others call it


def run(*command, cwd, **env):
    others = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env={**others, **env})
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from a copy, for builds leave files behind."""
    source, output = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('pyproject.toml', 'README.md', 'LICENSE', 'NOTICE'):
        shutil.copy(REPOSITORY / name, source / name)
    shutil.copytree(REPOSITORY / 'timm_sbs', source / 'timm_sbs', ignore=shutil.ignore_patterns('__pycache__'))
    run(sys.executable, '-c', BUILD, output, cwd=source)
    [found] = output.glob('*.whl')
    return found


def test_it_holds_all_files_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [scripts] = [archive.read(name).decode() for name in names if name.endswith('/entry_points.txt')]
    package = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / 'timm_sbs').rglob('*')
               if path.is_file() and '__pycache__' not in path.parts}
    assert {name for name in names if name.startswith('timm_sbs/')} == package
    assert all(name.startswith(('timm_sbs/', 'timm_sbs-')) for name in names)
    entries = ConfigParser()
    entries.read_string(scripts)
    assert dict(entries['console_scripts']) == {'timm-sbs': 'timm_sbs.cli.main:main'}
    assert wheel.stat().st_size < 12_000_000  # nearly all of it what ships


def test_what_is_unpacked_trains(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'installed')
    run(sys.executable, '-m', 'timm_sbs.train', *TRAIN, '--order-over', 'nothing', '--output', 'out', cwd=tmp_path,
        PYTHONPATH=str(tmp_path / 'installed'))  # without an ordering numba compiles nothing
    assert timm_sbs.load(tmp_path / 'out').base.name == 'resnet20_cifar10'


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


@pytest.mark.slow
def test_the_demo(environment, tmp_path):
    shown = run(environment / 'bin' / 'timm-sbs', 'demo', cwd=tmp_path)
    assert 'sbs_resnet20_cifar10_42pct' in shown and 'coffee' in shown.lower()


@pytest.mark.slow
def test_the_command_trains_and_what_it_made_is_loaded(environment, tmp_path):
    run(environment / 'bin' / 'timm-sbs', 'train', *TRAIN, '--output', 'out', cwd=tmp_path)
    told = run(environment / 'bin' / 'python', '-c', LOAD, 'out', cwd=tmp_path)
    assert told.split() == ['269722', 'resnet20_cifar10']


@pytest.mark.slow
@pytest.mark.parametrize('count, several', [(1, []), (2, ['--multi_gpu'])])  # accelerate's word, on the CPU too
def test_accelerate_launches_the_module(environment, tmp_path, count, several):
    run(environment / 'bin' / 'python', '-m', 'accelerate.commands.launch', '--num_processes', count, *several,
        '--num_machines', 1, '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', 0,
        '-m', 'timm_sbs.train', *TRAIN, '--output', 'out', cwd=tmp_path)
    results = json.loads((tmp_path / 'out' / 'config.json').read_text())['sbs']['results']
    assert results['hardware'].startswith('2 processes') == (count == 2)
