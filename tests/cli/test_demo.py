import json

import numpy as np
import pytest
import timm
from conftest import SHIPPED

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import read_config
from timm_sbs.cli import main as cli
from timm_sbs.cli.demo import demo_batches, load_demo_images, run_demo
from timm_sbs.data.accuracy import evaluate


def test_images_are_500_of_ten_classes():
    demo = load_demo_images()
    assert demo.images.shape == (500, 32, 32, 3) and demo.images.dtype == np.uint8
    assert np.bincount(demo.labels).tolist() == [50] * 10
    assert demo.class_names[0] == 'airplane' and demo.class_names[9] == 'truck'
    assert len({image.tobytes() for image in demo.images}) == 500


def test_recorded_figure_of_the_original_is_right(resnet20):
    demo = load_demo_images()
    cfg = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
    assert evaluate(resnet20, demo_batches(demo, cfg)).correct == demo.original['correct']


def test_shipped_predictor_classifies_real_images():
    """457 of the 500 are the original's. A predictor that lost its ordering or its scale would be near 50."""
    result = run_demo()
    assert result.original.correct == 457
    assert result.accuracy.images == 500 and result.accuracy.correct >= 450
    assert result.artifact_bytes < result.original_bytes / 13


@pytest.mark.parametrize('name, top1, largest', [
    ('sbs_resnet20_cifar10_42pct', 91.4, 80_000), ('sbs_resnet20_cifar10_33pct', 91.0, 64_000),
    ('sbs_resnet20_cifar10_24pct', 90.2, 49_000), ('sbs_resnet56_cifar10_26pct', 93.0, 151_271)])
def test_shipped_predictors_have_the_accuracy_and_size_that_they_promise(name, top1, largest):
    config, _ = read_config(shipped_folder(name))
    results = config.results
    assert results['images'] == 10_000 and results['top1'] >= top1
    assert results['original_top1'] == {'resnet20_cifar10': 91.73, 'resnet56_cifar10': 93.39}[config.base]
    assert f"_{round(100 * results['predictor_parameters'] / results['original_parameters'])}pct" in name
    assert sum(path.stat().st_size for path in shipped_folder(name).iterdir()) <= largest


def test_demo_command_prints_both_networks(capsys):
    assert cli.main(['demo']) == 0
    out = capsys.readouterr().out
    recorded = read_config(shipped_folder(SHIPPED))[0].results
    for text in ('these 500 images', '91.4 %', '1,084,392', 'x smaller', ' ms', f"{recorded['top1']:.2f} %", '91.73 %'):
        assert text in out, text


def test_damaged_installation_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr('timm_sbs.cli.demo.FOLDER', tmp_path)
    assert cli.main(['demo']) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith('timm-sbs: The demo images are missing') and 'Traceback' not in captured.err


def test_demo_data_is_small_and_plain():
    from timm_sbs.cli import demo
    info = json.loads((demo.FOLDER / demo.INFO_NAME).read_text())
    assert set(info) == {'source', 'class_names', 'labels', 'original'}
    assert sum(path.stat().st_size for path in demo.FOLDER.iterdir()) < 1_200_000
