"""The pages are made of the results files, say what these hold, and lead nowhere that does not exist."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ALL_SHIPPED, FLOATS, IMAGENET_ALL, IMAGENET_ROUNDED, README, REPOSITORY, RESULTS, ROUNDED

sys.path.insert(0, str(RESULTS.parent))
from table_makers import MAKERS
from table_makers.sources import file_bytes, ledger_of, results_of, sbs_of

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


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_no_figure_of_a_result_stands_in_a_sentence(path):
    """Figures belong into tables, where they cannot go stale. Sentences round them: 'about a fifth'."""
    found = re.findall(r'\d\.\d+ ?(?:%|x\b|times|ms\b|s\b|[kMG]B|points)|\d,\d{3},\d{3}', prose(text_of(path)))
    assert found == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 160


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


@pytest.mark.parametrize('name', ALL_SHIPPED)
def test_shipped_predictors_of_cifar10_are_those_that_were_measured(name):
    networks = results_of('accuracy_over_bytes')['networks']
    [point] = [point for entry in networks.values() for point in entry['points'] if point['setting'] == name]
    assert point['top1'] == pytest.approx(sbs_of(name)['results']['top1'], abs=0.03)
    assert point['files']['model.safetensors'] == ledger_of(name)['file']
    assert abs(point['bytes'] - file_bytes(name)) < 100  # config.json may say the same in other words
    assert name in results_of('robustness')['summary'][sbs_of(name)['base']]


@pytest.mark.parametrize('name', [*FLOATS, *ROUNDED])
def test_what_ships_from_the_frontier_is_what_was_measured(name):
    points = [p for p in results_of('frontier')['points'] if abs(p['bytes'] - file_bytes(name)) < 100]
    results = sbs_of(name)['results']
    assert (results['top1'], results['holdout_divergence']) in [(p['top1'], p['holdout_divergence']) for p in points]
    assert results['images'] == 10_000 and results['agreement'] > 90


@pytest.mark.parametrize('name', [*IMAGENET_ALL, IMAGENET_ROUNDED])
def test_shipped_predictors_of_imagenet_are_those_that_were_measured(name):
    measured, results = results_of('imagenet_resnet18'), sbs_of(name)['results']
    [row] = [row for row in measured['artifacts'] if row['name'] == name]
    assert (results['top1'], results['agreement']) == (row['validation']['top1'], row['validation']['agreement'])
    assert results['original_top1'] == measured['original']['validation']['top1']
    assert abs(row['bytes'] - file_bytes(name)) < 100


def test_sentences_about_training_hold():
    loop = results_of('nern_loop')
    for network in ('resnet20', 'resnet56'):
        run = loop[network]
        assert run['ours']['error'] <= loop['error'] and 29 < run['times_as_long'] < 31 and not run['nern_reached']
    on_cpus = [row for row in results_of('distillation_step')['rows'] if 'CPU' in row['hardware']]
    assert on_cpus and all(row['share_of_parts'] >= 0.85 for row in on_cpus)
    drawn = results_of('data_free_resnet20')
    assert min(run['last_top1'] for run in drawn['inversion']) > max(run['last_top1'] for run in drawn['noise']) > 88
    killed = results_of('kill_and_resume')
    assert killed['equal'] == killed['kills'] == killed['killed'] == len(killed['runs']) == 10
    runs = results_of('reconstruction_resnet20')['uos_rff']
    assert len(runs) == 3 and min(run['top1'] for run in runs) >= 84
    assert max(run['ordering_seconds'] + run['training_seconds'] for run in runs) < 90  # 'about a minute'


def test_sentences_about_loading_and_scale_hold():
    assert results_of('created_model_resnet20')['forward_ratio'] < 1.05
    for network, full in results_of('load')['networks'].items():
        for ours in (run for run in full.values() if isinstance(run, dict) and 'second_ms' in run):
            assert ours['second_over_full'] <= 1.3 and ours['peak_mb_above_model'] <= 256
            assert ours['generation']['share_of_limit'] >= (0.65 if network == 'resnet20_cifar10' else 0.7)
    scale = results_of('scale')
    assert scale['path']['seconds'] <= 60 and scale['path']['32768']['length_over_greedy'] <= 1
    assert scale['memory']['peak_mb'] < 4000 and min(run['share'] for run in scale['reconstruction'].values()) >= 0.5


def test_sentences_about_the_parts_hold():
    networks = [results_of(f'ablation_{network}')['summary'] for network in ('resnet20', 'resnet56')]
    for summary in networks:
        assert all(row['seeds'] == 3 for regime, rows in summary.items() for row in rows.values()
                   if regime != 'bandwidth trials')
        rows = summary['parameters']
        ours = rows['UOS and UOS-RFF']['error']
        assert 3 < rows['UOS-RFF alone']['error'] / ours < 4.5 and ours / rows['UOS alone']['error'] < 0.75
        assert ours < rows['p = 0']['error'] and rows['neither']['error'] > 0.9
        assert rows['6 linear layers']['error'] < ours
    small, large = networks[0]['110k bytes'], networks[1]['240k bytes']
    assert small['none']['error'] < small['layer']['error'] and large['layer']['error'] / large['none']['error'] < 0.55


def test_sentences_about_other_methods_hold():
    points = {point['method'] + ', ' + point['setting']: point for entry in
              results_of('accuracy_over_bytes')['networks'].values() for point in entry['points']}
    trained, ours = points['trained rounding, 1.6 bits by channel, 4000 steps'], points[f'ours, {ALL_SHIPPED[0]}']
    assert trained['top1'] >= ours['top1'] and 0.75 < trained['bytes'] / ours['bytes'] < 0.85
    imagenet = results_of('imagenet_resnet18')
    finer, coarser = (row for row in imagenet['coded'] if row['how'] == 'second order')
    shipped, small = imagenet['artifacts'][:2]
    assert finer['corrected']['validation']['agreement'] >= shipped['validation']['agreement']
    assert finer['bytes'] <= shipped['bytes']
    assert coarser['corrected']['validation']['agreement'] > small['validation']['agreement']
    lite0 = results_of('second_order_imagenet')['efficientnet_lite0']['phases'][-1]
    assert 78 < lite0['corrected']['agreement'] < 85
