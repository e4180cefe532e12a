"""The trainer as users call it: timm_sbs.train.main(argv)."""
import csv
import io
import re
import resource
import shutil
from contextlib import contextmanager, redirect_stdout

import huggingface_hub
import pytest
import timm
import torch
from conftest import RESNET, RESNET20, SHIPPED
from hub_server import TOKEN, running_hub
from safetensors.torch import load_file, save_file

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact, read_config
from timm_sbs.common.config import EncodingConfig, OrderingConfig
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader
from timm_sbs.predictor.generator import relative_error
from timm_sbs.train import main
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import parse_args

# Without the last stage, which is most of the kernels, a few steps of training show.
SHALLOW = [*RESNET, '--keep', 'layer3.*', '--pct', '8']


def run(*argv):
    """Everything that a run prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main([*map(str, argv)]) == 0
    return printed.getvalue()


def top1(folder, image_folder):
    """What timm makes of an artifact, on the validation images."""
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    loader = eval_loader(DataSettings(str(image_folder), batch_size=80, workers=0), model.pretrained_cfg)
    return evaluate(model, loader).top1


@pytest.fixture(scope='module')
def reconstructed(tmp_path_factory):
    """An artifact of reconstruction alone, whose predictions are far from the original's."""
    out = tmp_path_factory.mktemp('reconstructed')
    run(*SHALLOW, '--reconstruction-steps', 100, '--output', out)
    return out


@pytest.fixture(scope='module')
def distilled(tmp_path_factory, image_folder):
    """The folder of a run of both phases, and what it printed: 18 steps on 360 images repair much."""
    out = tmp_path_factory.mktemp('distilled')
    printed = run(
        *SHALLOW, '--reconstruction-steps', 100, '--data-dir', image_folder, '--no-aug', '--workers', 0, '-b', 20,
        '--distillation-steps', 18, '--eval-interval', 6, '--lr', '2e-3', '--checkpointing-steps', 9, '--output', out)
    return out, printed


def test_reconstruction_alone_writes_a_loadable_artifact(tmp_path, capsys):
    out = tmp_path / 'new' / 'folder'
    assert main([*RESNET, '--pct', '10', '--reconstruction-steps', '5', '--output', str(out)]) == 0
    printed = capsys.readouterr().out
    assert '18 of its weights are generated (267,264 of 269,722 parameters)' in printed
    model = timm.create_model(f'local-dir:{out}', pretrained=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
    results = load_artifact(out).results
    assert f"reconstruction: error {results['reconstruction_error']:.4f}" in printed
    assert results['predictor_parameters'] <= 26_972 and results['seed'] == 0 and 'top1' not in results
    names = sorted(path.name for path in out.iterdir())
    assert names == ['args.yaml', 'config.json', 'last', 'model.safetensors', 'summary.csv']


def looks(printed):
    """Divergences from the original on the held-out images, and agreements, as a run has told them."""
    found = re.findall(r'(?:step \d+|before distillation): divergence (\S+), agreement (\S+) % on held-out', printed)
    return [(float(divergence), float(agreement)) for divergence, agreement in found]


def test_distillation_improves_and_keeps_the_best_on_held_out_images(distilled, reconstructed, image_folder):
    out, printed = distilled
    assert '40 training images are held out' in printed
    artifact, last = load_artifact(out), load_artifact(out / 'last').results
    results, found = artifact.results, looks(printed)
    assert len(found) == 4 and results['holdout_images'] == 40
    assert (results['holdout_divergence'], results['holdout_agreement']) == pytest.approx(min(found), abs=1e-4)
    assert last['holdout_divergence'] == pytest.approx(found[-1][0], abs=1e-4)
    assert min(found)[1] >= found[0][1] + 15
    # the kept tensors are the trained ones
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)
    assert not torch.equal(artifact.kept['linear.bias'], original.linear.bias)
    # what was measured at the end is what was written
    assert results['images'] == 100 and results['original_top1'] >= 85 and results['agreement'] > 50
    assert results['top1'] == top1(out, image_folder) >= max(50, top1(reconstructed, image_folder) + 15)
    assert 'top1' not in last


def test_summary_and_arguments_are_written(distilled):
    out, _ = distilled
    with open(out / 'summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['phase'], row['step']) for row in rows] == [
        ('reconstruction', '100'), *[('distillation', step) for step in ('0', '6', '12', '18')], ('validation', '0')]
    best, last = (load_artifact(folder).results for folder in (out, out / 'last'))
    assert float(rows[-2]['holdout_agreement']) == last['holdout_agreement'] and float(rows[0]['loss']) > 0
    assert float(rows[-1]['best_holdout_divergence']) == best['holdout_divergence']
    assert float(rows[-1]['top1']) == best['top1']
    again = parse_args(build_parser(), ['--config', str(out / 'args.yaml')])
    assert again.distillation_steps == 18 and again.batch_size == 20


def test_the_original_is_not_in_a_checkpoint(distilled):
    names = load_file(distilled[0] / 'checkpoints' / 'checkpoint-0000118' / 'state.safetensors')
    assert {'predictor.trunk.0.weight', 'kept.bn1.running_mean'} <= set(names)
    assert not any('layer1.0.conv1' in name for name in names)


def test_same_seed_same_file(tmp_path, resnet8):
    files = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        run(*resnet8, '--pct', 5, '--reconstruction-steps', 4, '--seed', seed, '--output', tmp_path / name)
        files.append((tmp_path / name / 'model.safetensors').read_bytes())
    assert files[0] == files[1] != files[2]


def test_settings_reach_the_artifact(tmp_path):
    run(*RESNET, '--reconstruction-steps', 2, '--output', tmp_path, '--order-over', 'filter', '--activation', 'sine',
        '--linear-layers', 3, '--bandwidth', 2, '--bandwidth-exponent', 0.25, '--num-frequencies', 16,
        '--layer-bandwidth', 1, '--storage-dtype', 'float32', '--keep', 'layer1.*', '--seed', 5,
        '--model-kwargs', 'drop_rate=0.1', '--max-places', 500)
    config = read_config(tmp_path)[0]
    assert config.ordering == OrderingConfig('filter', 'grid', max_places=500)
    assert config.encoding == EncodingConfig('random_fourier', 16, 1., 2., 0.25, seed=5)
    assert config.predictor.linear_layers == 3 and config.predictor.activation == 'sine'
    assert config.storage_dtype == 'float32' and config.base_args == {'drop_rate': 0.1}
    assert len(config.generated) == 12


@pytest.mark.parametrize('argv, says', [
    (['--model', 'resnet19'], "no model 'resnet19'"),
    ([*RESNET[:2], '--initial-checkpoint', 'nowhere.pth'], "'nowhere.pth' is no file"),
    ([*RESNET, '--pct', '0.01'], 'cannot exist'),
    ([*RESNET, '--min-weights', '1000000'], 'has no weight to generate'),
    ([*RESNET, '--coordinates', 'path', '--order-over', 'axes'], "coordinates='path' needs"),
    ([*RESNET, '--reconstruction-steps', '-1'], 'must be 0 or more'),
    ([*RESNET, '--start-from', 'nowhere'], "'nowhere' is no predictor"),
    ([*RESNET, '--resume', 'nowhere'], "'nowhere' is no checkpoint"),
    ([*RESNET, '--report-to', 'clearml'], '--report-to clearml'),
    ([*RESNET, '--report-to', 'nothing'], 'Unsupported logging capability: nothing'),
    ([*RESNET, '--data-dir', 'nowhere'], 'No images could be read'),
    (['--model', 'mixer_s32_224', '--initial-checkpoint', str(RESNET20)], 'Cannot create'),
])
def test_bad_requests_are_one_line_and_leave_nothing(tmp_path, capsys, argv, says):
    assert main([*argv, '--output', str(tmp_path / 'out')]) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.startswith('timm-sbs train: ') and captured.err.count('\n') == 1
    assert not (tmp_path / 'out').exists() or not list((tmp_path / 'out').iterdir())


def test_a_transformer_is_generated_too_unless_it_is_excluded(tmp_path, capsys):
    weights = tmp_path / 'vit.safetensors'
    save_file(timm.create_model('test_vit').state_dict(), weights)
    argv = ['--model', 'test_vit', '--initial-checkpoint', str(weights), '--output', str(tmp_path / 'out')]
    assert main([*argv, '--keep', '*']) == 2
    captured = capsys.readouterr()
    assert 'has no weight to generate' in captured.err and captured.err.count('\n') == 1
    assert main([*argv, '--keep', '*.attn.*', '--pointwise-size', '4', '--reconstruction-steps', '2']) == 0
    config, _ = read_config(tmp_path / 'out')
    assert config.generated and config.pointwise_size == 4
    assert all('.mlp.' in name for name in config.generated)
    timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)


def test_what_the_second_phase_would_refuse_is_refused_before_the_first(tmp_path, capsys):
    argv = [*RESNET, '--output', str(tmp_path / 'out'), '--data-free', 'noise', '--feature-weight', '1']
    assert main([*argv, '--feature-modules', 'layer7']) == 2
    captured = capsys.readouterr()
    assert "no module 'layer7'" in captured.err and not captured.out


def test_data_free_improves_on_reconstruction(tmp_path, reconstructed, image_folder):
    """Synthetic images, and a validation split that only measures."""
    shutil.rmtree(shutil.copytree(image_folder, tmp_path / 'images') / 'train')
    run(*RESNET, '--start-from', reconstructed, '--reconstruction-steps', 0, '--data-dir', tmp_path / 'images',
        '--data-free', 'inversion', '--synthetic-images', 24, '--synthetic-steps', 20, '--distillation-steps', 8,
        '--eval-interval', 8, '--batch-size', 12, '--lr', '3e-4', '--workers', 0, '--output', tmp_path / 'out')
    artifact = load_artifact(tmp_path / 'out')
    results = artifact.results
    assert results['data_free'] == 'inversion' and 'holdout_images' not in results
    assert results['top1'] >= top1(reconstructed, image_folder) + 3
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)
    assert torch.equal(artifact.kept['bn1.running_mean'], original.bn1.running_mean)  # not those of synthetic images
    assert not torch.equal(artifact.kept['bn1.weight'], original.bn1.weight)


def test_going_on_from_an_artifact(tmp_path, reconstructed, image_folder):
    """With labels alone, which need no outputs of the original."""
    run(*RESNET, '--start-from', reconstructed, '--reconstruction-steps', 0, '--data-dir', image_folder,
        '--distillation-steps', 20, '--eval-interval', 20, '--output-weight', 0, '--label-weight', 1, '-b', 20,
        '--lr', '1e-3', '-j', 0, '--output', tmp_path)
    before, after = load_artifact(reconstructed), load_artifact(tmp_path)
    assert after.generator.config.predictor == before.generator.config.predictor
    assert all((a[0] == b[0]).all() for a, b in zip(after.generator.permutations, before.generator.permutations))
    assert after.results['top1'] > top1(reconstructed, image_folder) + 10
    assert 'reconstruction_error' not in after.results


def test_going_on_from_a_packed_artifact_keeps_its_rounding(tmp_path, image_folder, images):
    """Rounding what is rounded already changes next to nothing, so training goes on where it ended."""
    shipped = shipped_folder(SHIPPED)
    run(*RESNET, '--start-from', shipped, '--reconstruction-steps', 0, '--data-dir', image_folder,
        '--distillation-steps', 2, '--lr', '1e-6', '-b', 40, '-j', 0, '--output', tmp_path)
    before, after = load_artifact(shipped), load_artifact(tmp_path)
    assert after.storage.quantization == before.storage.quantization
    assert relative_error(before.generator(), after.generator()) < 5e-3
    validation = [tensor[::5] for tensor in images]
    original = evaluate(timm.create_model(SHIPPED, pretrained=True), [validation])
    assert after.results['top1'] == pytest.approx(original.top1, abs=2)
    assert 'bits' not in after.results and after.results['started_from'] == before.results


def test_an_earlier_runs_checkpoints_are_not_mixed_with_a_new_one(tmp_path, resnet8, capsys):
    argv = [*resnet8, '--reconstruction-steps', '6', '--checkpointing-steps', '3', '--output', str(tmp_path)]
    assert main(argv) == 0
    assert main(argv) == 2
    assert 'holds checkpoints of an earlier run. Go on from them with --resume latest' in capsys.readouterr().err
    before = (tmp_path / 'model.safetensors').read_bytes()
    assert main([*argv, '--resume', 'latest']) == 0
    assert (tmp_path / 'model.safetensors').read_bytes() == before
    assert main([*argv, '--resume', 'latest', '--pct', '10']) == 2
    assert 'was made with --pct 20.0, but this run has 10.0' in capsys.readouterr().err


def test_a_run_may_be_resumed_where_its_images_are_now(tmp_path, resnet8, image_folder, capsys):
    names = sorted(path.name for path in (image_folder / 'train').iterdir())
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    for place in ('here', 'there', 'other'):
        (tmp_path / place).mkdir()
        (tmp_path / place / ('photographs' if place != 'other' else 'more')).symlink_to(image_folder / 'train')
    argv = [*resnet8, '--reconstruction-steps', '6', '--distillation-steps', '2', '-b', '8', '-j', '0',
            '--checkpointing-steps', '3', '--pct', '3', '--class-map', str(tmp_path / 'classes.txt'),
            '--output', str(tmp_path / 'out')]
    assert main([*argv, '--unlabelled-dir', str(tmp_path / 'here' / 'photographs')]) == 0
    again = [*argv, '--resume', 'latest', '--unlabelled-dir']
    assert main([*again, str(tmp_path / 'there' / 'photographs')]) == 0
    assert load_artifact(tmp_path / 'out').results['unlabelled'] == 'photographs'
    assert main([*again, str(tmp_path / 'other' / 'more')]) == 2
    assert '--unlabelled-dir' in capsys.readouterr().err
    (tmp_path / 'classes.txt').write_text('\n'.join(reversed(names)))
    assert main([*again, str(tmp_path / 'there' / 'photographs')]) == 2
    assert '--class-map classes.txt' in capsys.readouterr().err


def test_what_is_trained_further_keeps_its_licence(tmp_path, small_folder):
    (small_folder / 'LICENSE').write_text('for nobody')
    run(*RESNET, '--start-from', small_folder, '--reconstruction-steps', 2, '--output', tmp_path / 'out')
    for folder in (tmp_path / 'out', tmp_path / 'out' / 'last'):
        assert (folder / 'LICENSE').read_text() == 'for nobody'


@contextmanager
def no_file_larger_than(size):
    """As on a disk that is full beyond it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, capsys):
    """Files may not grow beyond 60,000 bytes: the artifact does not fit."""
    argv = [*RESNET, '--reconstruction-steps', '3', '--output', str(tmp_path / 'out'), '--checkpointing-steps', '2']
    with no_file_larger_than(60_000):
        assert main(argv) == 2
    errors = capsys.readouterr().err
    assert errors.strip().splitlines()[-1].startswith('timm-sbs train: Cannot write') and 'Traceback' not in errors
    assert not [p.name for p in (tmp_path / 'out').rglob('*') if p.name.startswith('.')]


@pytest.fixture()
def hub(monkeypatch, tmp_path):
    """A Hub on loopback, to which the client of this process talks."""
    constants = huggingface_hub.constants
    with running_hub() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        monkeypatch.setattr(constants, 'ENDPOINT', server.endpoint)
        monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
        monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
        yield server


def test_pushing_to_the_hub(tmp_path, hub, monkeypatch, capsys, resnet8):
    """The repository comes first, the artifact last, and a bad token before the work."""
    def push(token):
        monkeypatch.setenv('HF_TOKEN', token)
        status = main([*resnet8, '--reconstruction-steps', '2', '--output', str(tmp_path / 'out'), '--push-to-hub',
                       '--hub-model-id', 'user/small', '--hub-private'])
        return status, *capsys.readouterr()

    status, out, err = push('hf_wrong')
    assert status == 2 and 'Is the token valid' in err
    assert 'reconstruction error' not in out and 'hf_wrong' not in err + out
    status, out, err = push(TOKEN)
    assert status == 0, err
    assert f'uploaded to {hub.endpoint}/user/small/commit/' in out and hub.private['user/small']
    assert TOKEN not in out + err + (tmp_path / 'out' / 'args.yaml').read_text()
    files = hub.files('user/small')
    assert set(files) == {'config.json', 'model.safetensors', 'README.md'}
    for name in ('config.json', 'model.safetensors'):
        assert (tmp_path / 'out' / name).read_bytes() == files[name]
    assert "timm.create_model('hf-hub:user/small', pretrained=True)" in files['README.md'].decode()
