import subprocess
import sys

import pytest
from conftest import RESNET20, write_demo_images

from timm_sbs import cli


@pytest.fixture(scope='module')
def image_folder(tmp_path_factory):
    return write_demo_images(tmp_path_factory.mktemp('images'), {'validation': range(0, 500, 5)})


def test_help_names_the_commands():
    shown = subprocess.run([sys.executable, '-m', 'timm_sbs', '--help'], capture_output=True, text=True, check=True)
    assert 'demo' in shown.stdout and 'eval' in shown.stdout


def test_eval_of_generated_and_original(image_folder, capsys):
    args = ['--data-dir', str(image_folder), '--workers', '0']
    assert cli.main(['eval', 'sbs_resnet20_cifar10_42pct', *args]) == 0
    assert cli.main(['eval', 'resnet20_cifar10', '--checkpoint', str(RESNET20), *args]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('sbs_resnet20_cifar10_42pct: top-1 ') and first.endswith('of 100 images)')
    for line in (first, second):
        assert float(line.split('top-1 ')[1].split()[0]) >= 85


@pytest.mark.parametrize('args, says', [
    (['eval', 'sbs_resnet20_cifar10_42pct'], 'Say where the images are'),
    (['eval', 'sbs_resnet20_cifar10_42pct', '--data-dir', 'nowhere'], "could be read from split 'validation'"),
    (['eval', 'resnet19', '--data-dir', 'nowhere'], "no model 'resnet19'"),
    (['eval', 'local-dir:nowhere', '--data-dir', 'nowhere'], "Cannot create 'local-dir:nowhere'"),
    (['eval', 'resnet20_cifar10', '--checkpoint', 'no.pth', '--data-dir', 'nowhere'], "'no.pth' is no file"),
])
def test_bad_requests_are_one_line(args, says, capsys):
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.startswith('timm-sbs: ') and captured.err.count('\n') == 1
