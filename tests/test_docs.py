"""The pages are made of the results files, say what these hold, and lead nowhere that does not exist."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, RESULTS

sys.path.insert(0, str(RESULTS.parent))
from table_makers import MAKERS

PAGES = [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').glob('*.md'))]
CARDS = sorted((REPOSITORY / 'hub_cards').glob('*.md'))
MADE = re.compile(r'<!-- table: (\w+) -->\n.*?<!-- end -->', flags=re.DOTALL)
# Terms of the glossary, and how sentences use them.
TERMS = {
    'artifact': r'artifacts?', 'predictor': r'predictors?', 'kernel': r'kernels?', 'token': r'tokens?',
    'place': r'places', 'ordering': r'orderings?', 'folding': r'folding', 'kept': r'kept tensors?', 'quantized':
    r'quantized', 'error': r'errors?', 'original model': r'original models?', 'agreement':
    r'agreement', 'distillation': r'distillation', 'second order': r'second order', 'corrected': r'corrected'}
OWN_WORDS = ('architecture.md', 'glossary.md')  # pages that need no definitions of their own


def text_of(path: Path) -> str:
    return path.read_text(encoding='utf-8')


def prose(text: str) -> str:
    """A page without its tables, code, links' targets, HTML and headings."""
    for dropped in (MADE, r'(?ms)^```.*?^```', r'`[^`]*`', r'\]\([^)]*\)', r'<[^>]*>', r'(?m)^#.*$'):
        text = re.sub(dropped, ' ', text)
    return ' '.join(text.split())


def slugs(text: str) -> set:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', re.sub(r'(?ms)^```.*?^```', '', text), flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_tables_are_made_of_the_results():
    """Run python tests/benchmarks/tables.py after results have changed."""
    check = subprocess.run([sys.executable, RESULTS.parent / 'tables.py', '--check'], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_page_that_differs_is_found(tmp_path):
    """In a copy of the repository that has one table changed by hand."""
    for name in ('docs', 'tests/benchmarks/table_makers', 'tests/benchmarks/results'):
        (tmp_path / name).mkdir(parents=True)
    for source in (REPOSITORY / 'tests' / 'benchmarks').glob('tables.py'):
        (tmp_path / 'tests' / 'benchmarks' / source.name).write_text(text_of(source))
    for folder in ('tests/benchmarks/table_makers', 'tests/benchmarks/results'):
        for source in [*(REPOSITORY / folder).glob('*.py'), *(REPOSITORY / folder).glob('*.json')]:
            (tmp_path / folder / source.name).write_text(text_of(source))
    page = tmp_path / 'docs' / 'page.md'
    (tmp_path / 'README.md').write_text('# Nothing\n')
    page.write_text('<!-- table: folding -->\nby hand\n<!-- end -->\n')
    command = [sys.executable, tmp_path / 'tests' / 'benchmarks' / 'tables.py']
    assert subprocess.run([*command, '--check']).returncode == 1 and 'by hand' in page.read_text()
    assert subprocess.run(command).returncode == 0 and '\n'.join(MAKERS['folding']()) in page.read_text()
    assert subprocess.run([*command, '--check']).returncode == 0
    page.write_text('<!-- table: folding -->\nwithout an end\n')
    assert subprocess.run([*command, '--check']).returncode == 1


def test_no_table_is_typed_by_hand_and_none_is_left_out():
    used = {name for path in PAGES for name in MADE.findall(text_of(path))}
    assert used == set(MAKERS)
    for path in PAGES:
        if path.name != 'architecture.md':
            assert not re.search(r'^\|', MADE.sub('', text_of(path)), flags=re.MULTILINE), path.name


@pytest.mark.parametrize('path', PAGES + CARDS, ids=lambda path: path.name)
def test_links_and_pictures_exist(path):
    text = text_of(path)
    links = re.findall(r'\]\((?!https?:)([^)\s]+)\)', text)
    for target in links + re.findall(r'src(?:set)?="([^"]+)"', text):
        file, _, anchor = target.partition('#')
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in slugs(text_of(linked)), target


@pytest.mark.parametrize('path', sorted(RESULTS.glob('*.json')), ids=lambda path: path.stem)
def test_results_say_how_they_came_about(path):
    results = json.loads(path.read_text())
    assert {'command', 'versions', 'hardware'} <= set(results) and {'seed', 'seeds'} & set(results)
    assert set(results['versions']) >= {'timm_sbs', 'timm', 'torch'}
    assert any(results['command'] in ' '.join(text_of(page).split()) for page in PAGES)


def test_the_glossary_defines_every_term():
    defined = re.findall(r'\*\*([^*]+)\*\*', text_of(REPOSITORY / 'docs' / 'glossary.md'))
    assert {term.lower() for term in defined} >= set(TERMS)


@pytest.mark.parametrize('path', [path for path in PAGES if path.name not in OWN_WORDS], ids=lambda path: path.name)
def test_pages_define_the_terms_that_they_use(path):
    """Where a page explains a word, the word is in italics or bold."""
    text = prose(text_of(path))
    explained = ' '.join(re.findall(r"\*{1,2}([\w' -]+)\*{1,2}", text)).lower()
    for term, pattern in TERMS.items():
        if re.search(rf'(?i)\b{pattern}\b', text):
            stem = {'quantized': 'quantize'}.get(term, term)
            assert stem in explained, f"'{term}' is used, and not explained"
