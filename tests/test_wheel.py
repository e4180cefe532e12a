"""The wheel is all that a user needs: built, and installed without the sources, it trains, loads, and runs the demo."""
import email
import json
import os
import shutil
import site
import subprocess
import sys
import zipfile

import pytest
from conftest import REPOSITORY, RESNET20

import timm_sbs

TRAIN = ['--model', 'resnet20_cifar10', '--initial-checkpoint', RESNET20, '--pct', '10', '--reconstruction-steps', '5',
         '--second-order-steps', '0', '--mixed-precision', 'no', '--order-over', 'nothing', '--output', 'out']
LOAD = """
import sys, timm, timm_sbs
assert timm_sbs.__file__.startswith(sys.argv[1]), timm_sbs.__file__
model = timm.create_model('local-dir:out', pretrained=True)
print(sum(p.numel() for p in model.parameters()), timm_sbs.load('out').base.name)
"""
BUILD = 'import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])'  # as pip and others call it


def run(*command, cwd, **env):
    others = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env={**others, **env})
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """A function that builds the wheel of a project from a copy of some of its files, for builds leave files behind."""
    def built(project, *files):
        source, output = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
        for name in files:
            path = project / name
            if path.is_dir():
                shutil.copytree(path, source / name, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(path, source / name)
        run(sys.executable, '-c', BUILD, output, cwd=source)
        [found] = output.glob('*.whl')
        return found

    return built


@pytest.fixture(scope='module')
def wheel(build):
    return build(REPOSITORY, 'pyproject.toml', 'README.md', 'LICENSE', 'NOTICE', 'timm_sbs')


def licence_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return email.message_from_bytes(archive.read(name))['License-Expression']


def test_weights_for_non_commercial_use_are_in_a_wheel_of_their_own(wheel, build, tmp_path):
    other = build(REPOSITORY / 'noncommercial', 'pyproject.toml', 'README.md', 'timm_sbs_noncommercial')
    assert 'NC' not in licence_of(wheel) and 'CC-BY-NC-4.0' in licence_of(other)
    for each in (wheel, other):
        with zipfile.ZipFile(each) as archive:
            archive.extractall(tmp_path)
    code = "import timm, timm_sbs; print(timm.create_model('sbs_resnet18_2mb', pretrained=True).num_classes)"
    assert run(sys.executable, '-c', code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split() == ['1000']


def test_it_holds_all_files_of_the_package_which_train_without_the_sources(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / 'installed')
    package = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / 'timm_sbs').rglob('*')
               if path.is_file() and '__pycache__' not in path.parts}
    assert {name for name in names if name.startswith('timm_sbs/')} == package
    assert all(name.startswith(('timm_sbs/', 'timm_sbs-')) for name in names)
    assert wheel.stat().st_size < 12_000_000  # nearly all of it the shipped artifacts
    run(sys.executable, '-m', 'timm_sbs.train', *TRAIN, cwd=tmp_path, PYTHONPATH=str(tmp_path / 'installed'))
    assert timm_sbs.load(tmp_path / 'out').base.name == 'resnet20_cifar10'


@pytest.mark.slow
def test_its_commands_in_an_environment_of_their_own(wheel, tmp_path):
    """It borrows the dependencies of this one, but not the package."""
    folder = tmp_path / 'environment'
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd='/')
    python, command = folder / 'bin' / 'python', folder / 'bin' / 'timm-sbs'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index', wheel, cwd='/')
    own = run(python, '-c', "import sysconfig; print(sysconfig.get_path('purelib'))", cwd='/').strip()
    with open(os.path.join(own, 'dependencies.pth'), 'w') as file:
        file.write('\n'.join(site.getsitepackages()) + '\n')
    assert 'coffee' in run(command, 'demo', cwd=tmp_path)
    run(command, 'train', *TRAIN, cwd=tmp_path)
    assert run(python, '-c', LOAD, folder, cwd=tmp_path).split() == ['269722', 'resnet20_cifar10']
    run(python, '-m', 'accelerate.commands.launch', '--num_processes', 2, '--multi_gpu', '--num_machines', 1,
        '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', 0, '-m', 'timm_sbs.train', *TRAIN,
        cwd=tmp_path)  # --multi_gpu is accelerate's word for several processes, on the CPU too
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['sbs']['results']['hardware'].startswith('2 proc')
