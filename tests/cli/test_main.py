"""The commands: their help, what they pass on, and their errors."""
import pytest
import timm
import torch
from conftest import RESNET20, SHIPPED, described
from processes import run

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.cli import main as cli


def test_help_names_the_commands_and_their_arguments(capsys):
    for argv, words in ((['--help'], [*cli.COMMANDS, 'rounded']), (['plot', '--help'], ['SOURCE', '--kind', 'curves']),
                        (['push', '--help'], ['REPO-ID', '--private', 'HF_TOKEN']), (['run', '--help'], ['SCRIPT']),
                        (['train', '--help'], ['--reconstruction-steps'])):
        with pytest.raises(SystemExit, match='0'):
            cli.main(argv)
        shown = capsys.readouterr().out
        assert all(word in shown for word in words), shown


def test_run_gives_the_models_to_a_script_that_knows_only_timm(tmp_path):
    (tmp_path / 'beside.py').write_text(f'NAME = "{SHIPPED}"\n')
    script = tmp_path / 'tool.py'
    script.write_text(
        'import argparse, beside, sys, timm\n'
        'parser = argparse.ArgumentParser()\n'
        'parser.add_argument("--model_name")\n'
        'name = parser.parse_args().model_name\n'
        'assert __name__ == "__main__" and name == beside.NAME\n'
        'sys.exit(17 if timm.create_model(name, pretrained=True).num_classes == 10 else 1)\n')
    assert run('-m', 'timm_sbs', 'run', script, '--model_name', SHIPPED).returncode == 17


def test_eval_of_generated_and_original(image_folder, capsys):
    args = ['--data-dir', str(image_folder), '--workers', '0']
    assert cli.main(['eval', SHIPPED, *args]) == 0
    assert cli.main(['eval', 'resnet20_cifar10', '--checkpoint', str(RESNET20), *args]) == 0
    folder = str(shipped_folder(SHIPPED))
    assert cli.main(['eval', folder, *args]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f'{SHIPPED}: top-1 ') and first.endswith('of 100 images)')
    assert third == first.replace(SHIPPED, folder)
    assert all(float(line.split('top-1 ')[1].split()[0]) >= 85 for line in (first, second))


def test_eval_runs_on_the_accelerator(image_folder, monkeypatch):
    moved = []
    monkeypatch.setattr('torch.accelerator.is_available', lambda: True)
    monkeypatch.setattr('torch.accelerator.current_accelerator', lambda: torch.device('cuda'))
    monkeypatch.setattr(torch.nn.Module, 'to', lambda model, device: moved.append(device))
    assert cli.main(['eval', SHIPPED, '--data-dir', str(image_folder), '-j', '0']) == 0
    assert moved == [torch.device('cuda')]


def test_web_says_what_it_has_written_and_how_to_look_at_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Artifact, 'onnx_model', lambda *_, **__: bytes(5000))
    assert cli.main(['web', SHIPPED, str(tmp_path / 'a site')]) == 0
    shown = capsys.readouterr().out
    assert 'model.onnx' in shown and '5,000 bytes' in shown and 'with Brotli' in shown and '.onnx.br' not in shown
    assert f"python -m http.server --directory '{tmp_path}/a site'" in shown and 'Content-Encoding: br' in shown


@pytest.mark.parametrize('flags, image', [([], 'normalized float32 [N, 3, H, W]'),
                                          (['--preprocessing', '--plain'], 'uint8 RGB [N, H, W, 3]')])
def test_export_writes_an_onnx_model_and_says_how_to_use_it(flags, image, tmp_path, capsys):
    output = tmp_path / 'a.onnx'
    assert cli.main(['export', SHIPPED, str(output), *flags]) == 0
    shown = capsys.readouterr().out
    assert f"wrote {output} ({output.stat().st_size:,} bytes; licence: bsd-2-clause)" in shown
    assert f"'pixel_values': {image}; output 'logits'" in shown and 'Checked with onnxruntime' in shown
    assert (output.stat().st_size > 1_000_000) == bool(flags)  # full weights


def test_export_names_weights_of_the_same_preprocessing(small_artifact, tmp_path, monkeypatch, capsys):
    described(small_artifact, tag='mine').save(tmp_path / 'a')
    for known, name in ((True, 'resnet20_cifar10.mine'), (False, 'resnet20_cifar10')):
        monkeypatch.setattr(timm, 'is_model_pretrained', lambda _, known=known: known)
        assert cli.main(['export', str(tmp_path / 'a'), str(tmp_path / 'a.safetensors')]) == 0
        assert f"timm.create_model('{name}', checkpoint_path=" in capsys.readouterr().out


def test_export_says_when_nothing_has_checked_the_model(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr('timm_sbs.artifact.exports.onnx_model', lambda *_: (bytes(5), None))
    assert cli.main(['export', SHIPPED, str(tmp_path / 'a.onnx')]) == 0
    assert 'Not checked: onnxruntime is not installed' in capsys.readouterr().out


@pytest.mark.parametrize('flag', ['--plain', '--preprocessing'])
def test_flags_of_onnx_models_are_refused_for_checkpoints(flag, tmp_path, capsys):
    assert cli.main(['export', SHIPPED, str(tmp_path / 'a.safetensors'), flag]) == 2
    assert 'are for ONNX models: end OUTPUT in .onnx' in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize('args, says', [
    (['export', SHIPPED, 'nowhere/a.pth'], "'nowhere/a.pth' must end in .safetensors"),
    (['eval', SHIPPED], 'Pass labelled images'),
    (['eval', 'resnet19', '--data-dir', 'nowhere'], "'resnet19'. Did you mean 'resnet18'?"),  # a ValueError
    (['web', SHIPPED, 'nowhere/site', '--runtime', 'nowhere'], 'npm pack onnxruntime-web@'),
    (['run', 'nowhere.py', '--help'], "'nowhere.py' is not a file"),
])
def test_bad_requests_are_one_line(args, says, capsys):
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.startswith('timm-sbs: ') and captured.err.count('\n') == 1
