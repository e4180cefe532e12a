"""timm's own tests, run on the entries and the CIFAR networks: ``python tests/benchmarks/timm_tests.py``.

Needs pip and a package index, from which it gets timm's source distribution of the installed version, and pytest. No
weights are downloaded, so the tests of pretrained weights run on the entries alone. It takes five minutes. What it
finds is printed in one line.
"""
import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import timm
import timm.models

from timm_sbs.common.entries import ENTRIES

HERE = Path(__file__).parent
FILES = ('test_models.py', 'test_model_input.py', 'test_task.py')
_list_models = timm.list_models


def ours(filter: str = '', module: str = '', pretrained: bool = False, **options: object) -> list[str]:
    """timm.list_models of our networks alone, in whichever of timm's modules the tests look for theirs."""
    listed = _list_models(filter, pretrained=pretrained, **options)
    cifar = () if pretrained else _list_models(module='resnet_cifar')
    return [name for name in listed if name.split('.')[0] in {*ENTRIES, *cifar}]


def pytest_configure() -> None:
    """This file is a plugin of pytest, too."""
    timm.list_models = timm.models.list_models = ours
    timm.list_pretrained = partial(ours, pretrained=True)


def pytest_itemcollected(item: Any) -> None:
    """What tests ask for when they run is timm's own answer."""
    if hasattr(item.module, 'list_models'):
        item.module.list_models = _list_models


def run_tests(folder: Path) -> dict[str, Counter[str]]:
    """What became of each file's tests: how many passed, failed and were skipped."""
    subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--no-binary', ':all:',
                    f'timm=={timm.__version__}', '--dest', folder], check=True)
    source, = folder.glob('timm-*.tar.gz')
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter='data')
    tests = folder / source.name.removesuffix('.tar.gz') / 'tests'
    counts = {}
    for file in FILES:
        subprocess.run(
            [sys.executable, '-m', 'pytest', '-q', '--tb=short', '-p', 'timm_tests', '-p', 'no:warnings',
             '-c', os.devnull, '--rootdir', tests, '--junitxml', folder / 'results.xml', tests / file],
            env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(HERE), *filter(None, sys.path)])}, cwd=tests)
        cases = ElementTree.parse(folder / 'results.xml').iter('testcase')
        counts[file] = Counter(
            {'failure': 'failed', 'error': 'failed', 'skipped': 'skipped'}.get(case[0].tag, 'passed') if len(case)
            else 'passed' for case in cases)
    return counts


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = run_tests(Path(folder))
    total = sum(counts.values(), Counter())
    print(f"timm {timm.__version__}'s tests on our networks: "
          f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return int(total['failed'] > 0)


if __name__ == '__main__':
    sys.exit(main())
