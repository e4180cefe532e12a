import os

import pytest
import torch
from conftest import RESNET20, write_demo_images
from processes import run

from timm_sbs.cli import main as cli
from timm_sbs.training.options.flags import build_parser


@pytest.fixture(scope='module')
def image_folder(tmp_path_factory):
    return write_demo_images(tmp_path_factory.mktemp('images'), {'validation': range(0, 500, 5)})


def commands():
    [action] = [action for action in cli.build_parser()._actions if action.dest == 'command']
    return action.choices


def test_help_names_the_commands():
    shown = run('-m', 'timm_sbs', '--help')
    assert not shown.returncode and all(f'    {name} ' in shown.stdout for name in ('demo', 'eval', 'train'))
    assert set(cli.RUN) == set(commands()) - {'train'}


def test_the_trainer_reads_its_own_flags(capsys):
    with pytest.raises(SystemExit):
        cli.main(['train', '--help'])
    assert '--reconstruction-steps' in capsys.readouterr().out


def test_help_tells_of_rounding_where_an_artifact_may_have_no_predictor():
    parsers = [cli.build_parser(), build_parser(), *(commands()[name] for name in ('info', 'push', 'export'))]
    assert all('rounded' in parser.description for parser in parsers)


def test_run_gives_the_models_to_a_script_that_knows_only_timm(tmp_path):
    (tmp_path / 'beside.py').write_text('NAME = "sbs_resnet20_cifar10_42pct"\n')
    script = tmp_path / 'tool.py'
    script.write_text(
        'import argparse, beside, sys, timm\n'
        'parser = argparse.ArgumentParser()\n'
        'parser.add_argument("--model")\n'
        'name = parser.parse_args().model\n'
        'assert __name__ == "__main__" and name == beside.NAME\n'
        'sys.exit(17 if timm.create_model(name, pretrained=True).num_classes == 10 else 1)\n')
    argv = [str(script), '--model', 'sbs_resnet20_cifar10_42pct']
    assert run('-m', 'timm_sbs', 'run', *argv).returncode == 17
    assert cli.main(['run', str(tmp_path / 'none.py')]) == 2


def test_what_a_script_starts_knows_the_models_too(tmp_path):
    """As timm's bulk_runner.py does; and what another sitecustomize does still happens, in all of them."""
    (tmp_path / 'sitecustomize.py').write_text("print('customized')")
    child = ("import importlib.util, sys; found = importlib.util.find_spec('timm'); print('torch' in sys.modules)\n"
             'import timm; print(timm.is_model("sbs"))\n')
    (tmp_path / 'script.py').write_text(
        f'import subprocess, sys\nsubprocess.run([sys.executable, "-c", {child!r}], check=True)\n')
    done = run('-m', 'timm_sbs', 'run', tmp_path / 'script.py', env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert not done.returncode and done.stdout.split() == ['customized', 'False', 'True']


def test_eval_of_generated_and_original(image_folder, capsys):
    args = ['--data-dir', str(image_folder), '--workers', '0']
    assert cli.main(['eval', 'sbs_resnet20_cifar10_42pct', *args]) == 0
    assert cli.main(['eval', 'resnet20_cifar10', '--checkpoint', str(RESNET20), *args]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('sbs_resnet20_cifar10_42pct: top-1 ') and first.endswith('of 100 images)')
    for line in (first, second):
        assert float(line.split('top-1 ')[1].split()[0]) >= 85


def test_eval_runs_where_it_is_told(image_folder, monkeypatch, capsys):
    args = ['eval', 'sbs_resnet20_cifar10_42pct', '--data-dir', str(image_folder), '--workers', '0']
    assert cli.main([*args, '--device', 'cpu']) == 0
    expected, moved = capsys.readouterr().out, []
    monkeypatch.setattr('torch.accelerator.is_available', lambda: True)
    monkeypatch.setattr('torch.accelerator.current_accelerator', lambda: torch.device('cuda'))
    to = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, 'to', lambda model, device: moved.append(device) or to(model, 'cpu'))
    assert cli.main(args) == 0 and capsys.readouterr().out == expected
    assert cli.main([*args, '--device', 'cpu']) == 0
    assert moved == [torch.device('cuda'), torch.device('cpu')]


@pytest.mark.parametrize('args, says', [
    (['eval', 'sbs_resnet20_cifar10_42pct'], 'Say where the images are'),
    (['eval', 'sbs_resnet20_cifar10_42pct', '--data-dir', 'nowhere'], "could be read from split 'validation'"),
    (['eval', 'resnet20_cifar10', '--data-dir', '.', '--device', 'nowhere'], "There is no device 'nowhere' here"),
    (['eval', 'resnet19', '--data-dir', 'nowhere'], "no model 'resnet19'"),
    (['eval', 'local-dir:nowhere', '--data-dir', 'nowhere'], "Cannot create 'local-dir:nowhere'"),
    (['eval', 'resnet20_cifar10', '--checkpoint', 'no.pth', '--data-dir', 'nowhere'], "'no.pth' is no file"),
])
def test_bad_requests_are_one_line(args, says, capsys):
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.startswith('timm-sbs: ') and captured.err.count('\n') == 1
