"""The figures of docs/imagenet.md are those of the results file and of the shipped predictor."""
import importlib.util
import json
import re
import shlex
import sys

from conftest import IMAGENET_SHIPPED, REPOSITORY, RESULTS

from timm_sbs.artifact import read_config
from timm_sbs.models import embedded_folder

PAGE = (REPOSITORY / 'docs' / 'imagenet.md').read_text(encoding='utf-8')
MEASURED = json.loads((RESULTS / 'imagenet_resnet18.json').read_text())


def test_table_is_made_of_the_results(monkeypatch):
    folder = RESULTS.parent
    monkeypatch.setattr(sys, 'path', [str(folder), *sys.path])
    spec = importlib.util.spec_from_file_location('imagenet_resnet18', folder / 'imagenet_resnet18.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert '\n'.join(module.table(MEASURED)) in PAGE


def test_the_shipped_predictor_is_one_that_was_measured():
    folder = embedded_folder(IMAGENET_SHIPPED)
    results = read_config(folder)[0].results
    [row] = [row for row in MEASURED['artifacts'] if 'shipped' in row['name']]
    assert results['top1'] == row['validation']['top1']
    assert results['original_top1'] == MEASURED['original']['validation']['top1']
    size = (folder / 'model.safetensors').stat().st_size
    assert size < row['bytes'] < size + 4096  # with a config.json before accuracies were recorded in it


def test_times_are_those_that_the_run_recorded():
    results = read_config(embedded_folder(IMAGENET_SHIPPED))[0].results
    minutes = {
        'reconstruction': results['reconstruction_seconds'], 'statistics': results['statistics_seconds'],
        'second order': results['second_order_seconds'] - results['reconstruction_seconds'] - results[
            'statistics_seconds']}
    for phase, seconds in minutes.items():
        assert re.search(rf'^\| {phase} \|.*\| {seconds / 60:.0f} min \|$', PAGE, flags=re.M), phase
    assert f"{results['second_order_steps']} steps" in PAGE and f"{results['statistics_images']:,}" in PAGE


def test_commands_are_understood(train_sbs):
    commands = re.findall(r'train_sbs\.py ((?:.*\\\n)*.*)', PAGE)
    assert commands
    for command in commands:
        args = train_sbs.parse_args(train_sbs.build_parser(), shlex.split(command.replace('\\\n', ' ')))
        assert args.recipe == 'imagenet' and args.license
