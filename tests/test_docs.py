"""What README, docs and the notebook tell users to do works: snippets run, commands parse, links and tables hold."""
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import timm_sbs
from timm_sbs.cli import main as cli
from timm_sbs.cli.demo import FOLDER

REPOSITORY = Path(__file__).parent.parent
BENCHMARKS = REPOSITORY / 'tests' / 'benchmarks'
PAGES = {path.name: path for path in [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').glob('*.md'))]}
CARDS = sorted((REPOSITORY / 'hub_cards').glob('*.md'))
NOTEBOOK = json.loads((REPOSITORY / 'docs' / 'quickstart.ipynb').read_text(encoding='utf-8'))
# Snippets with these words need a network, a login, images, or a folder that another command writes.
NOT_RUN = ("create_model('resnet18'", 'hf-hub:', 'push_to_hub', 'images=', "'FILE'", 'local-dir:out/resnet18')
CODE = re.compile(r'^```.*?^```', flags=re.DOTALL | re.MULTILINE)


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', page.read_text(encoding='utf-8'), flags=re.DOTALL)


def command_lines() -> list[list[str]]:
    """Words of all command lines in code blocks of all pages."""
    found = []
    for page in PAGES.values():
        for line in re.sub(r'\\\n\s*', ' ', '\n'.join(blocks('bash', page))).splitlines():
            found += [shlex.split(part, comments=True) for part in line.split('&&')]
    return found


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', CODE.sub('', page.read_text(encoding='utf-8')), flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.fixture()
def checkout(tmp_path, monkeypatch):
    """A folder with the files of a checkout that snippets read, to write into."""
    (tmp_path / 'tests').mkdir()
    (tmp_path / 'tests' / 'data').symlink_to(REPOSITORY / 'tests' / 'data')
    (tmp_path / 'photo.jpg').symlink_to(FOLDER / 'coffee.jpg')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def quick_fit(monkeypatch):
    """``timm_sbs.fit`` with few optimization steps; in place of rounding, which takes longer, it loads what ships."""
    from timm_sbs.training.fit import fit
    from timm_sbs.training.flat_settings import settings_of

    def quick(model, *args, quiet=False, **fields):
        if 'bytes' in fields:
            assert settings_of(fields).target.rounds
            return timm_sbs.load('sbs_resnet20_cifar10_50kb')
        return fit(model, *args, **{'reconstruction_steps': 5, **fields}, mixed_precision='no', quiet=True)

    monkeypatch.setattr(timm_sbs, 'fit', quick)


@pytest.mark.parametrize('page', [page for page in PAGES if blocks('python', PAGES[page])])
def test_snippets_run(page, checkout, quick_fit):
    """In order, as in one program."""
    scope = {}
    for block in blocks('python', PAGES[page]):
        code = compile(block, page, 'exec')
        if not any(word in block for word in NOT_RUN):
            exec(code, scope)


def test_notebook_runs(checkout, quick_fit):
    scope = {}
    for cell in NOTEBOOK['cells']:
        if cell['cell_type'] == 'code' and 'skip-test' not in cell['metadata'].get('tags', []):
            exec(''.join(cell['source']), scope)
    assert (checkout / 'quickstart' / 'kernels.png').is_file()


def trainer_argv(words: list[str]) -> list[str] | None:
    """The trainer's arguments, if the words start it: 'timm-sbs train' or '-m timm_sbs.train'."""
    if words[:2] == ['timm-sbs', 'train']:
        return words[2:]
    return words[words.index('timm_sbs.train') + 1:] if 'timm_sbs.train' in words else None


TRAINING = [words for words in command_lines() if trainer_argv(words) is not None]
OTHERS = [words for words in command_lines() if words[:1] == ['timm-sbs'] and words not in TRAINING]


@pytest.mark.parametrize('words', TRAINING, ids=lambda words: ' '.join(words)[:80])
def test_training_commands_are_understood(words):
    from timm_sbs.training.command_line import parse

    settings, _ = parse(trainer_argv(words))
    assert settings.original.model and settings.run.output


@pytest.mark.parametrize('words', OTHERS, ids=lambda words: ' '.join(words)[:80])
def test_other_commands_are_understood(words, monkeypatch):
    for name, command in cli.COMMANDS.items():
        monkeypatch.setitem(cli.COMMANDS, name, functools.wraps(command)(lambda *args, **kwargs: 0))
    assert cli.main(words[1:]) == 0


@pytest.mark.parametrize('path', [*PAGES.values(), *CARDS], ids=lambda path: path.name)
def test_links_pictures_and_files_exist(path):
    text = path.read_text(encoding='utf-8')
    links = re.findall(r'\]\((?!https?:)([^)\s]+)\)', text)
    for target in links + re.findall(r'src(?:set)?="([^"]+)"', text):
        file, _, anchor = target.partition('#')
        linked = path.parent / file if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
    for file in re.findall(r'`(?:python )?([\w/.]+/[\w.]+\.(?:py|yaml|md|json))', text):
        assert any((root / file).exists() for root in (REPOSITORY, REPOSITORY / 'timm_sbs')), file


def test_tables_are_made_of_the_results():
    """Run python tests/benchmarks/tables.py after results have changed."""
    check = subprocess.run([sys.executable, BENCHMARKS / 'tables.py', '--check'], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
