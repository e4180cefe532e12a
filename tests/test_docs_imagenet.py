"""The figures of docs/imagenet.md are those of the results files and of the shipped predictors."""
import importlib
import json
import re
import shlex
import sys

import pytest
from conftest import IMAGENET_ALL, IMAGENET_SHIPPED, REPOSITORY, RESULTS

from timm_sbs import cards
from timm_sbs.artifact import read_config
from timm_sbs.models import embedded_folder

PAGE = (REPOSITORY / 'docs' / 'imagenet.md').read_text(encoding='utf-8')
MEASURED = json.loads((RESULTS / 'imagenet_resnet18.json').read_text())
VARIANTS = json.loads((RESULTS / 'imagenet_variants.json').read_text())


@pytest.mark.parametrize('module, table, results', [
    ('imagenet_resnet18', 'table', MEASURED), ('imagenet_resnet18', 'blocks_table', MEASURED),
    ('imagenet_variants', 'table', VARIANTS)])
def test_tables_are_made_of_the_results(module, table, results, monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(RESULTS.parent), *sys.path])
    rows = getattr(importlib.import_module(module), table)(results)
    assert len(rows) > 4 and '\n'.join(rows) in PAGE
    assert results['command'] in PAGE


@pytest.mark.parametrize('name', IMAGENET_ALL)
def test_shipped_predictors_are_those_that_were_measured(name):
    folder = embedded_folder(name)
    results = read_config(folder)[0].results
    [row] = [row for row in MEASURED['artifacts'] if row['name'] == name]
    assert (results['top1'], results['agreement']) == (row['validation']['top1'], row['validation']['agreement'])
    assert results['original_top1'] == MEASURED['original']['validation']['top1']
    assert sum((folder / file).stat().st_size for file in ('config.json', 'model.safetensors')) == row['bytes']


def test_times_are_those_that_the_run_recorded():
    results = read_config(embedded_folder(IMAGENET_SHIPPED))[0].results
    [run] = [row for row in VARIANTS['variants'] if row['name'] == 'path over each layer']
    rounded, distilled = run['phases'][-2:]
    times = {
        'reconstruction': results['reconstruction_seconds'], 'statistics': results['statistics_seconds'],
        'second order': results['second_order_seconds'] - results['reconstruction_seconds'] - results[
            'statistics_seconds'], 'distillation, rounded': distilled['seconds'] - rounded['seconds']}
    for phase, seconds in times.items():
        assert re.search(rf'^\| {phase} \|.*\| {seconds / 60:.0f} min \|$', PAGE, flags=re.M), (phase, seconds)
    assert f"{results['second_order_steps']} steps" in PAGE and f"{results['statistics_images']:,}" in PAGE


def test_cards_and_page_say_the_same_of_all_of_imagenet():
    assert cards._WHOLE_IMAGENET in ' '.join(PAGE.split())


def test_commands_are_understood(train_sbs):
    commands = re.findall(r'train_sbs\.py ((?:.*\\\n)*.*)', PAGE)
    assert commands
    for command in commands:
        args = train_sbs.parse_args(train_sbs.build_parser(), shlex.split(command.replace('\\\n', ' ')))
        assert args.recipe == 'imagenet' and args.license
