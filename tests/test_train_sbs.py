"""The trainer as users call it: train_sbs.main(argv)."""
import json
import os
import subprocess
import sys

import pytest
import timm
import torch
from conftest import REPOSITORY, RESNET20, write_demo_images

from timm_sbs.artifact import load_artifact
from timm_sbs.evaluation import evaluate
from timm_sbs.training.data import DataSettings, eval_loader

RESNET = ['--model', 'resnet20_cifar10', '--initial-checkpoint', str(RESNET20)]


@pytest.fixture(scope='module')
def image_folder(tmp_path_factory):
    return write_demo_images(tmp_path_factory.mktemp('images'), {
        'validation': range(0, 500, 5), 'train': [i for i in range(500) if i % 5]})


def test_reconstruction_alone_writes_a_loadable_artifact(train_sbs, tmp_path, capsys):
    out = tmp_path / 'new' / 'folder'
    assert train_sbs.main([*RESNET, '--pct', '10', '--reconstruction-steps', '30', '--output', str(out)]) == 0
    printed = capsys.readouterr().out
    assert '18 of its weights are generated (267,264 of 269,722 parameters)' in printed
    model = timm.create_model(f'local-dir:{out}', pretrained=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
    results = load_artifact(out).config.results
    assert f"reconstruction error {results['reconstruction_error']:.4f}" in printed
    assert results['predictor_parameters'] <= 26_972 and results['seed'] == 0 and 'top1' not in results
    assert sorted(p.name for p in out.iterdir()) == ['config.json', 'model.safetensors']


def test_distillation_improves_and_keeps_the_best(train_sbs, tmp_path, image_folder, capsys):
    """150 reconstruction steps leave the network far from the original; 24 steps on 400 images repair much of it."""
    argv = [*RESNET, '--reconstruction-steps', '150', '--data-dir', str(image_folder), '--distillation-steps', '24',
            '--eval-interval', '8', '--batch-size', '80', '--lr', '1e-3', '--workers', '0', '--output', str(tmp_path)]
    assert train_sbs.main(argv) == 0
    artifact = load_artifact(tmp_path)
    results = artifact.config.results
    assert results['images'] == 100 and results['original_top1'] >= 85
    assert results['top1'] >= max(50, results['reconstruction_top1'] + 15)
    printed = capsys.readouterr().out
    scores = [float(line.split('top-1 ')[1].split()[0]) for line in printed.splitlines() if line.startswith('step ')]
    assert len(scores) == 3
    assert results['top1'] == pytest.approx(max(scores + [results['reconstruction_top1']]), abs=0.01)
    assert results['validations'] == 3 and results['last_top1'] == pytest.approx(scores[-1], abs=0.01)
    # what was measured is what was written
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    loader = eval_loader(DataSettings(str(image_folder), batch_size=80, workers=0), model.pretrained_cfg)
    assert evaluate(model, loader).top1 == results['top1']
    # the kept tensors are the trained ones
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)
    assert not torch.equal(artifact.kept['linear.bias'], original.linear.bias)


def test_same_seed_same_file(train_sbs, tmp_path):
    files = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        argv = [*RESNET, '--pct', '5', '--reconstruction-steps', '4', '--seed', str(seed)]
        assert train_sbs.main([*argv, '--output', str(tmp_path / name)]) == 0
        files.append((tmp_path / name / 'model.safetensors').read_bytes())
    assert files[0] == files[1] != files[2]


def test_settings_reach_the_artifact(train_sbs, tmp_path):
    argv = [*RESNET, '--reconstruction-steps', '2', '--output', str(tmp_path), '--granularity', 'filter',
            '--activation', 'sine', '--linear-layers', '3', '--bandwidth', '2', '--bandwidth-exponent', '0.25',
            '--num-frequencies', '16', '--layer-bandwidth', '1', '--storage-dtype', 'float32', '--exclude', 'layer1.*', '--seed', '5',
            '--model-kwargs', 'drop_rate=0.1']
    assert train_sbs.main(argv) == 0
    block = json.loads((tmp_path / 'config.json').read_text())['sbs']
    assert block['ordering'] == {'granularity': 'filter', 'coordinates': 'grid'}
    assert block['encoding'] == {'kind': 'random_fourier', 'num_frequencies': 16, 'layer_bandwidth': 1.0,
                                 'bandwidth': 2.0, 'bandwidth_exponent': 0.25, 'seed': 5, 'base': 0.76, 'levels': 40}
    assert block['predictor']['linear_layers'] == 3 and block['predictor']['activation'] == 'sine'
    assert block['storage_dtype'] == 'float32' and block['base_args'] == {'drop_rate': 0.1}
    assert len(block['generated']) == 12


@pytest.mark.parametrize('argv, says', [
    (['--model', 'resnet19'], "no model 'resnet19'"),
    ([*RESNET[:2], '--initial-checkpoint', 'nowhere.pth'], "'nowhere.pth' is no file"),
    ([*RESNET, '--pct', '0.01'], 'cannot exist'),
    ([*RESNET, '--min-weights', '1000000'], 'no convolution weight to generate'),
    ([*RESNET, '--coordinates', 'path', '--granularity', 'axis'], "coordinates='path' needs"),
    ([*RESNET, '--reconstruction-steps', '0'], 'must be larger than 0'),
    ([*RESNET, '--data-dir', 'nowhere'], 'No images could be read'),
    (['--model', 'mixer_s32_224', '--initial-checkpoint', str(RESNET20)], 'Cannot create'),
])
def test_bad_requests_are_one_line_and_leave_nothing(train_sbs, tmp_path, capsys, argv, says):
    assert train_sbs.main([*argv, '--output', str(tmp_path / 'out')]) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.startswith('train_sbs.py: ') and captured.err.count('\n') == 1
    assert not (tmp_path / 'out').exists() or not list((tmp_path / 'out').iterdir())


def test_unwritable_output_is_found_before_the_work(train_sbs, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert train_sbs.main([*RESNET, '--output', str(tmp_path / 'file' / 'out')]) == 2
    captured = capsys.readouterr()
    assert 'Cannot write to --output' in captured.err and not captured.out


def test_unknown_flag_is_refused(train_sbs, capsys):
    with pytest.raises(SystemExit):
        train_sbs.main([*RESNET, '--output', 'x', '--recon', '3'])
    assert '--recon' in capsys.readouterr().err


def test_script_runs_by_itself_and_its_help_teaches():
    shown = subprocess.run(
        [sys.executable, str(REPOSITORY / 'train_sbs.py'), '--help'], capture_output=True, text=True, check=True,
        env={**os.environ, 'COLUMNS': '120'})
    for text in ('accelerate launch train_sbs.py', 'local-dir:', '--pct', 'original model', 'distillation'):
        assert text in shown.stdout
