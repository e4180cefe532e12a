"""The command line: flags, files, help and errors."""
import dataclasses

import pytest

from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import name_of
from timm_sbs.train import main
from timm_sbs.training.command_line import parse
from timm_sbs.training.flat_settings import settings_fields, settings_of
from timm_sbs.training.settings import Settings


def test_flags_set_fields():
    settings, dry_run = parse([
        '--model', 'resnet18', '--model-kwargs', 'drop_rate=0.1', 'act_layer=silu', '--bytes', '64k', '--keep', 'a',
        'b', '--images', 'x', 'y', '-b', '8', '-j', '0', '--no-aug', '--train-size', '24', '32', '--lr', '1e-4',
        '--data-dir', 'z', '--feature-weight', '1', '--mixed-precision', 'no', '--dry-run'])
    assert dry_run and settings == settings_of(dict(
        model='resnet18', model_kwargs={'drop_rate': 0.1, 'act_layer': 'silu'}, bytes='64k', keep=['a', 'b'],
        images=['x', 'y'], batch_size=8, workers=0, no_aug=True, train_size=[24, 32], lr=1e-4, data_dir='z',
        feature_weight=1, mixed_precision='no'))
    assert parse([]) == (Settings(), False)


def test_flags_overrule_a_file(tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_text('pct: 7\nclip_grad: 3\nmodel_kwargs: {drop_rate: 0.1}\nimages: [a]\n')
    settings = parse(['--config', str(path), '--reconstruction-steps', '17'])[0]
    assert settings == settings_of(dict(
        pct=7, clip_grad=3, model_kwargs={'drop_rate': 0.1}, images=['a'], reconstruction_steps=17))
    assert parse(['-c', str(path), '--bytes', '60k'])[0].target.pct is None
    assert parse(['--pct', '9', '-c', 'cifar10'])[0].target.pct == 9
    with pytest.raises(ConfigError, match='could not be read'):
        parse(['-c', 'nowhere.yaml'])
    with pytest.raises(ConfigError, match='--pct makes a predictor'):
        parse(['--pct', '20', '--bytes', '60k'])


@pytest.mark.parametrize('argv', [
    ['--lr', 'fast'], ['--recon', '3'], ['--order-over', 'row'], ['--clip-grad', '3'], ['--pct'], ['--seed', '1.5']])
def test_what_cannot_be_parsed_is_named(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    captured = capsys.readouterr()
    assert ended.value.code == 2 and argv[0] in captured.out + captured.err


def test_help_explains_every_flag_and_the_way_to_timm(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '120')
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    text = ' '.join(capsys.readouterr().out.split())
    flags = [leaf for _, leaf in settings_fields() if leaf.metadata.get('flag', True)]
    assert not ended.value.code and len(flags) <= 45
    for leaf in flags:
        assert f"--{name_of(leaf).replace('_', '-')} " in text
    assert 'accelerate launch -m timm_sbs.train' in text and 'local-dir:' in text
    documented = [part.default.__doc__ for part in dataclasses.fields(Settings)]
    assert all(f'    {leaf.name}: ' in ''.join(documented) for _, leaf in settings_fields())


def test_a_run_needs_somewhere_to_put_the_artifact(capsys):
    assert main(['--model', 'resnet18']) == 2
    assert 'Give --output FOLDER or --push-to-hub' in capsys.readouterr().err
