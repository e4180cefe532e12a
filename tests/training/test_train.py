"""The trainer as users call it, from the command line to the files: timm_sbs.train.main(argv)."""
import re
import resource
from contextlib import contextmanager

import huggingface_hub
import pytest
import timm
import torch
import yaml
from conftest import RESNET20, file_bytes, rows_of
from hub_server import TOKEN, running_hub
from safetensors.torch import load_file

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.data.accuracy import evaluate
from timm_sbs.predictor.generator import relative_error
from timm_sbs.train import main

# Of a network whose accuracy means something. Without the last stage, which is most of the kernels, few steps show.
RESNET = dict(model='resnet20_cifar10', initial_checkpoint=str(RESNET20), mixed_precision='no', second_order_steps=0,
              keep=['layer3.*'], pct=8)
IMAGES = dict(batch_size=20, workers=0, no_aug=True)


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    """The command with a file of settings; its exit status."""
    def run(*argv, **settings):
        path = tmp_path_factory.mktemp('settings') / 'c.yaml'
        path.write_text(yaml.safe_dump({
            name: str(value) if hasattr(value, 'joinpath') else value for name, value in settings.items()}))
        return main(['--config', str(path), *map(str, argv)])

    return run


def phases_of(folder):
    return [(row['phase'], int(row['step'])) for row in rows_of(folder)]


def top1(folder, images):
    """What timm makes of an artifact, on the validation images."""
    return evaluate(timm.create_model(f'local-dir:{folder}', pretrained=True), [[part[::5] for part in images]]).top1


@pytest.fixture(scope='module')
def distilled(program, tmp_path_factory, image_folder):
    """The folder of a run of two phases, and what it printed: 18 steps on 360 images repair much."""
    out = tmp_path_factory.mktemp('distilled')
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr('tqdm.auto.tqdm.write', printed.append)
        assert program(**RESNET, **IMAGES, reconstruction_steps=60, data_dir=image_folder, distillation_steps=18,
                       eval_interval=6, lr=2e-3, checkpointing_steps=9, output=out) == 0
    return out, '\n'.join(printed)


def test_distillation_improves_and_the_best_on_held_out_images_is_kept(distilled, images):
    out, printed = distilled
    artifact = load_artifact(out)
    results = artifact.results
    looks = [(float(divergence), float(agreement)) for divergence, agreement in re.findall(
        r': divergence (\S+), agreement (\S+) % on held-out', printed)]
    assert '40 training images are held out' in printed and results['holdout_images'] == 40 and len(looks) == 4
    assert (results['holdout_divergence'], results['holdout_agreement']) == pytest.approx(min(looks), abs=1e-4)
    assert min(looks)[1] >= looks[0][1] + 15
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)
    assert not torch.equal(artifact.kept['linear.bias'], original.linear.bias)
    # what was measured at the end is what was written
    assert results['images'] == 100 and results['original_top1'] >= 85 and results['agreement'] > 50
    assert results['top1'] == top1(out, images) >= 50
    assert f"wrote {out}; load it with timm.create_model('local-dir:{out}', pretrained=True)" in printed


def test_summary_and_results_tell_of_all_phases(distilled):
    out, _ = distilled
    assert phases_of(out) == [('reconstruction', 60), *[('distillation', n) for n in (6, 12, 18)], ('validation', 0)]
    rows, results = rows_of(out), load_artifact(out).results
    assert all(float(row['loss']) > 0 and float(row['lr']) > 0 for row in (rows[0], rows[3]))
    assert float(rows[-1]['best_holdout_divergence']) == results['holdout_divergence']
    assert [row['top1'] for row in rows] == [*[''] * 4, str(results['top1'])]
    assert results['reconstruction_error'] > 0 and results['reconstruction_steps'] == 60
    state = torch.load(max((out / 'checkpoints').glob('checkpoint-*')) / 'state.pt', weights_only=True)
    assert {'generator.predictor.trunk.0.weight', 'model.bn1.running_mean'} <= set(state)
    assert not any('layer1.0.conv1' in name for name in state)  # the original is not in a checkpoint


@pytest.fixture(scope='module')
def rounded(program, resnet8, tmp_path_factory, image_folder):
    """All weights, by statistics and then by training, into so many bytes."""
    out = tmp_path_factory.mktemp('rounded')
    assert program(**{**resnet8, 'second_order_steps': 1}, batch_size=10, workers=0, bytes=20_000, output=out,
                   images=[str(image_folder / 'train')], statistics_images=40, distillation_steps=8, eval_interval=4,
                   rounding_lr=0.3, lr=1e-3) == 0
    return out


def test_all_weights_are_rounded_and_trained_into_the_bytes_that_were_asked_for(rounded, small_model):
    artifact = load_artifact(rounded)
    assert 0.9 * 20_000 < file_bytes(rounded) <= 20_000 and len(artifact.rounded) == 8 and not artifact.generator.names
    assert [row for row in phases_of(rounded) if row[1] != 4] == [('rounding', 0), ('distillation', 8)]
    assert artifact.results['statistics_images'] == 40 and artifact.results['max_bytes'] == 20_000
    assert 'reconstruction_error' not in artifact.results
    state = timm.create_model(f'local-dir:{rounded}', pretrained=True).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in artifact.state_dict().items())
    assert 0 < relative_error(artifact.rounded, small_model.state_dict()) < 0.8


@pytest.mark.parametrize('distillation_steps', [0, 4])
def test_a_quantized_predictor_is_trained_as_it_will_be_stored(
        program, resnet8, tmp_path, image_folder, images, capsys, distillation_steps):
    """Also without distillation, and what was measured is what was written."""
    assert program(**{**resnet8, 'second_order_steps': 4, 'keep': ['layer3.*'], 'pct': 10}, **IMAGES, bits=5,
                   kept_bits=12, reconstruction_steps=20, statistics_images=40, data_dir=image_folder, eval_interval=2,
                   lr=1e-3, distillation_steps=distillation_steps, checkpointing_steps=500,
                   output=tmp_path) == 0
    printed, artifact = capsys.readouterr().out, load_artifact(tmp_path)
    assert 'bits of each layer, by the divergence that rounding it makes' in printed
    assert artifact.storage.quantization and artifact.results['layer_bits'] and artifact.results['bits'] == 5
    assert artifact.results['top1'] == top1(tmp_path, images) and artifact.results['expected_divergence'] > 0
    assert artifact.results['second_order_steps'] == 4 and artifact.results['statistics_images'] == 40
    phases = phases_of(tmp_path)
    assert phases[:2] == [('reconstruction', 20), ('second_order', 4)]
    if distillation_steps:
        assert phases[2:] == [('rounding', 0), ('distillation', 2), ('distillation', 4), ('validation', 0)]
    else:
        assert phases[2:] == [('rounding', 4), ('validation', 0)] and artifact.results['quantization_steps'] == 4
        # BatchNorm statistics are those for the weights that are stored
        original = timm.create_model(resnet8['model'], checkpoint_path=resnet8['initial_checkpoint']).eval()
        state = artifact.state_dict()
        running = {name: tensor for name, tensor in original.state_dict().items() if '.running_' in name}
        errors = []
        for tensors in (state, {**state, **running}):
            model = artifact.create_model().eval()
            model.load_state_dict(tensors)
            with torch.no_grad():
                errors.append(float((model(images[0]) - original(images[0])).square().mean()))
        assert errors[0] < 0.8 * errors[1]


def test_a_quantized_predictor_without_images_is_trained_on_the_weights(program, resnet8, tmp_path):
    """Which is better than to quantize what floats were trained to."""
    for bits in (None, 4):
        assert program(**{**resnet8, 'keep': ['layer3.*'], 'pct': 10}, bits=bits, linear_layers=4,
                       reconstruction_steps=40, order_over='axes', output=tmp_path / str(bits)) == 0
    plain, trained = load_artifact(tmp_path / 'None'), load_artifact(tmp_path / '4')
    plain = plain.quantized(trained.storage.quantization).as_stored()
    original = load_file(resnet8['initial_checkpoint'])
    errors = [relative_error(artifact.generator(), original) for artifact in (plain, trained)]
    assert errors[1] < errors[0] and trained.results['quantization_error'] == pytest.approx(errors[1], abs=1e-4)
    assert trained.results['quantization_steps'] == 40 and 'distillation_steps' not in trained.results


def test_validation_images_choose_nothing(program, resnet8, tmp_path, image_folder):
    """Without them a run ends with the same tensors, and measures none of its artifacts on them."""
    for name, split in (('with', None), ('without', '')):
        assert program(**resnet8, **IMAGES, reconstruction_steps=10, data_dir=image_folder, val_split=split, lr=1e-2,
                       distillation_steps=3, eval_interval=1, output=tmp_path / name) == 0
    tensors = [(tmp_path / name / 'model.safetensors').read_bytes() for name in ('with', 'without')]
    assert tensors[0] == tensors[1]
    measured, others = load_artifact(tmp_path / 'with').results, load_artifact(tmp_path / 'without').results
    assert measured['holdout_divergence'] == others['holdout_divergence']
    assert 'top1' in measured and 'top1' not in others


def test_where_nothing_can_be_held_out_the_last_artifact_is_kept(program, resnet8, tmp_path, capsys, small_model):
    """Statistics of images that are drawn are not those of photographs: those of the original stay."""
    assert program(**resnet8, reconstruction_steps=3, data_free=True, synthetic_images=16, synthetic_steps=2,
                   batch_size=8, workers=0, distillation_steps=3, eval_interval=1, output=tmp_path) == 0
    assert 'No training images are held out; the last artifact is kept.' in capsys.readouterr().out
    artifact = load_artifact(tmp_path)
    assert artifact.results['distillation_steps'] == 3 and 'holdout_images' not in artifact.results
    assert torch.equal(artifact.kept['bn1.running_mean'], small_model.bn1.running_mean)
    assert 'data_free' in artifact.results


def test_bad_requests_are_one_line(program, resnet8, tmp_path, capsys):
    for argv, says in ((['--pct', 0.01], 'too few'), (['--resume', 'nowhere'], "'nowhere' is not a checkpoint"),
                       (['--data-dir', '/nowhere'], '/nowhere'), (['--bytes', 'many'], "'many'")):
        assert program(*argv, **resnet8, output=tmp_path / 'out') == 2
        captured = capsys.readouterr()
        assert captured.err.startswith('timm-sbs train: ') and captured.err.count('\n') == 1 and says in captured.err
        assert 'reconstruction' not in captured.out and not list(tmp_path.glob('out/*'))


@contextmanager
def no_file_larger_than(size):
    """As on a disk that is full beyond it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize('every', [None, 2])
def test_a_full_disk_is_one_sentence_and_leaves_no_part(program, resnet8, tmp_path, capsys, every):
    """Neither the artifact nor a checkpoint fits."""
    with no_file_larger_than(20_000):
        assert program(**resnet8, reconstruction_steps=3, checkpointing_steps=every, order_over='nothing',
                       output=tmp_path / 'out') == 2
    errors = capsys.readouterr().err
    assert errors.startswith('timm-sbs train: ') and errors.count('\n') == 1
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.name.startswith('.')]


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


def test_pushing_to_the_hub(program, tmp_path, hub, monkeypatch, capsys, resnet8):
    """The repository comes first, the artifact last, and a bad token before the work."""
    def push(token):
        monkeypatch.setenv('HF_TOKEN', token)
        status = program(**resnet8, reconstruction_steps=2, order_over='nothing', output=tmp_path / 'out',
                         push_to_hub='user/small', hub_private=True)
        return status, *capsys.readouterr()

    status, out, err = push('hf_wrong')
    assert status == 2 and 'token' in err and 'reconstruction: error' not in out and 'hf_wrong' not in err + out
    status, out, err = push(TOKEN)
    assert status == 0, err
    assert f'uploaded to {hub.endpoint}/user/small/commit/' in out and hub.private['user/small']
    assert TOKEN not in out + err + (tmp_path / 'out' / 'settings.yaml').read_text()
    files = hub.files('user/small')
    assert set(files) == {'config.json', 'model.safetensors', 'README.md'}
    assert (tmp_path / 'out' / 'model.safetensors').read_bytes() == files['model.safetensors']
    assert "timm.create_model('hf-hub:user/small', pretrained=True)" in files['README.md'].decode()
