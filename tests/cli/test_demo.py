"""The demo: its images, what it measures and what it prints."""
import re

import numpy as np
import timm
from conftest import LITES, SHIPPED

from timm_sbs.artifact.files import read_config
from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.cli import main as cli
from timm_sbs.cli.demo import FOLDER, demo_batches, load_demo_images
from timm_sbs.data.accuracy import evaluate


def test_images_are_500_of_ten_classes_and_the_recorded_figure_of_the_original_is_right(resnet20):
    demo = load_demo_images()
    assert demo.images.shape == (500, 32, 32, 3) and len({image.tobytes() for image in demo.images}) == 500
    assert np.bincount(demo.labels).tolist() == [50] * 10 and demo.class_names[9] == 'truck'
    cfg = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
    assert evaluate(resnet20, demo_batches(demo, cfg)).correct == demo.original['correct'] == 457
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_200_000


def test_the_command_classifies_images_and_photographs(capsys):
    """457 of the 500 are the original's. A predictor that lost its ordering or its scale would be near 50."""
    assert cli.main(['demo']) == 0
    shown = capsys.readouterr().out
    recorded = read_config(shipped_folder(SHIPPED))[0].results
    for text in (f'{SHIPPED}, created', '1,084,392', 'times smaller', ' ms', f"{recorded['top1']:.2f} %", '91.73 %',
                 f'{LITES[0]}, created', 'apache-2.0', 'CC0'):
        assert text in shown, text
    [(original, generated)] = re.findall(r'these 500 images +([0-9.]+) % +([0-9.]+) %', shown)
    assert original == '91.4' and float(generated) >= 90
    assert shown.count('espresso') == 2  # in the same photograph, by both networks
    photographs = [re.findall(r'([a-z][a-z -]*?) +[0-9.]+ %', part, re.I) for part in shown.split('artifact\n')[2:]]
    assert len(photographs) == 3
    for names in photographs:  # in two columns
        original, generated = names[::2], names[1::2]
        assert len(names) == 10 and generated[0] in original[:2] and len({*original} & {*generated}) >= 3, names
