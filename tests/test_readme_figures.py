"""The README's figures are those of the results files, which say how they came about."""
import json
import re

import pytest
from conftest import ALL_SHIPPED, README, REPOSITORY, RESULTS

from timm_sbs.artifact import read_config
from timm_sbs.config import GRANULARITIES
from timm_sbs.models import embedded_folder
from timm_sbs.training.settings import FOLD_FROM

PAGES = [README, *(path.read_text(encoding='utf-8') for path in (REPOSITORY / 'docs').glob('*.md'))]


@pytest.mark.parametrize('path', sorted(RESULTS.glob('*.json')), ids=lambda path: path.stem)
def test_results_say_how_they_came_about(path):
    results = json.loads(path.read_text())
    assert {'command', 'versions', 'hardware'} <= set(results) and {'seed', 'seeds'} & set(results)
    assert any(results['command'] in ' '.join(page.split()) for page in PAGES)
    assert set(results['versions']) >= {'timm_sbs', 'timm', 'torch'}


def results_of(name):
    results = json.loads((RESULTS / f'{name}.json').read_text())
    assert results['command'] in README, results['command']
    return results


def numbers_in(value):
    """All numbers of a file, also those of its keys and within its sentences."""
    if isinstance(value, dict):
        return numbers_in([*value, *value.values()])
    if isinstance(value, list):
        return set().union(*map(numbers_in, value))
    return {float(number) for number in re.findall(r'\d+(?:\.\d+)?(?:e-\d+)?', str(value))}


def test_all_figures_of_the_results_are_in_files():
    """Or ratios, differences and other units of what is; whole numbers up to 64 may stand for themselves."""
    files = [*RESULTS.glob('*.json'), *(embedded_folder(name) / 'config.json' for name in ALL_SHIPPED)]
    known = numbers_in([json.loads(path.read_text()) for path in files])
    peers, load, path = (results_of(name) for name in ('accuracy_over_bytes', 'load', 'scale'))
    folding = results_of('folding')
    seen = (folding['large_steps'] * 4096 / row['places'] for row in folding['networks']['resnet18'])
    sizes = {point['setting']: point['bytes'] for e in peers['networks'].values() for point in e['points']}
    shipped = [read_config(embedded_folder(name))[0].results for name in ALL_SHIPPED]
    known |= {number / 2 for summary in ablations() for number in numbers_in(summary)}  # halves of spreads
    known |= {
        *(100 * results['predictor_parameters'] / results['original_parameters'] for results in shipped),
        peers['networks']['resnet20']['original']['bytes'] / sizes['sbs_resnet20_cifar10_24pct'],
        302_542 / sizes['sbs_resnet56_cifar10_26pct'], path['path']['peak_mb'] - path['path']['peak_mb_before'],
        load['networks']['resnet18']['unfolded']['ms'] / 1000, *seen, FOLD_FROM}
    for run in results_of('second_order')['networks'].values():  # means over seeds, and halves of their spreads
        for kind, pct in {(r['kind'], r['pct']) for r in run['runs']}:
            found = [r['top1'] for r in run['runs'] if (r['kind'], r['pct']) == (kind, pct)]
            known |= {sum(found) / len(found), (max(found) - min(found)) / 2}
    known |= {run['bytes'] / 1e6 for run in results_of('second_order_imagenet')['statistics'].values()}
    text = README[README.index('## Results'):]
    for dropped in (r'```.*?```', r'`[^`]*`', r'\]\([^)]*\)'):  # commands, names and links
        text = re.sub(dropped, '', text, flags=re.DOTALL)
    text = re.sub(r'(?<=\d),(?=\d{3})', '', text)
    written = re.findall(r'(?<![\w.,-])\d+(?:\.\d+)?', text)
    assert len(written) > 500
    rounded = {digits: {f'{number:.{digits}f}' for number in known} for digits in range(5)}
    missing = [figure for figure in written if figure not in rounded[len(figure.partition('.')[2])]]
    assert [figure for figure in missing if '.' in figure or float(figure) > 64] == []


def test_figures_of_the_training_loop():
    results = results_of('nern_loop')
    for network in ('resnet20', 'resnet56'):
        run = results[network]
        assert run['ours']['error'] <= results['error'] and run['times_as_long'] >= 20 and not run['nern_reached']
        ours, nern = (f"{r['error']:.3f} after {r['seconds']:{digits}f} s ({r['steps']:,} steps)"
                      for r, digits in ((run['ours'], '.1'), (run['nern'], '.0')))
        assert f'| ResNet-{network[6:]} | {ours} | {nern} |' in README


def test_figures_of_the_overhead():
    for network, methods in results_of('overhead')['networks'].items():
        for method, label in (('ours', 'ours'), ('nern', "NeRN's loop")):
            run = methods[method]
            assert (f"| ResNet-{network[6:]} | {label} | {run['ordering_seconds']:.2f} s | {run['step_ms']:.1f} ms | "
                    f"{run['peak_mb']} MB | {run['generating_ms']:.1f} ms |") in README


def test_figures_of_the_distillation_step():
    results = results_of('distillation_step')
    assert results['step_over_sum'] <= 1.25
    for text in (f"{results['step_over_sum']:.2f} times", f"{results['milliseconds']['step']:.0f} ms"):
        assert text in README, text


def test_figures_of_training_without_data():
    results = results_of('data_free_resnet20')
    for kind in ('white noise', 'noise', 'inversion'):
        row = next(line for line in README.splitlines() if line.startswith(f'| {kind}'))
        for run in results[kind]:
            assert f"{run['last_top1']:.2f}" in row
    assert min(run['last_top1'] for run in results['inversion']) >= 88


def test_figures_of_accuracy_over_bytes():
    results = results_of('accuracy_over_bytes')
    for network, entry in results['networks'].items():
        points = entry['points']
        ours = {point['setting']: point for point in points if point['method'] == 'ours'}
        assert set(ours) == {name for name in ALL_SHIPPED if network in name}
        for name, point in ours.items():
            folder = embedded_folder(name)
            assert point['bytes'] == sum(path.stat().st_size for path in folder.iterdir())
            assert point['top1'] == pytest.approx(read_config(folder)[0].results['top1'], abs=0.03)
            assert f"{point['nncodec_bytes_at_its_accuracy']:,} ({point['times_smaller_than_nncodec']:.2f} x)" in README
        for method in {point['method'] for point in points} - {'ours'}:
            assert any(
                f"{point['bytes']:,} | {point['top1']:.2f} %" in README for point in points
                if point['method'] == method), method
    assert 'src="tests/benchmarks/results/accuracy_over_bytes.png"' in README


def test_figures_of_efficientnet_lite0():
    results = results_of('efficientnet_lite0')
    for key, name in (('uos_rff_folded', 'UOS-RFF, folded'), ('uos_rff', 'UOS-RFF'), ('rff', 'RFF, one bandwidth'),
                      ('nern', "NeRN's configuration"), ('uos_rff_tokens_of_4', 'UOS-RFF, tokens of 4 channels'),
                      ('rounding', 'rounding + coding')):
        for run in results[key]:
            size = f"{run['bits']} bits" if 'bits' in run else f"{run['pct']:g} %"
            errors = ' | '.join(f"{run[kind]:.4f}" for kind in ('error', 'depthwise_error', 'pointwise_error'))
            assert f"| {name} | {size} | {errors} | {run['bytes']:,} | {run['agreement']:.1f} % |" in README
    assert [run['pct'] for run in results['uos_rff']] == [10, 20, 30]
    text = f"{results['crops']} crops of {results['photographs']} photographs; {results['agreement_by_chance']:.1f} %"
    assert text in ' '.join(README.split())


def test_figures_of_scale():
    results, text = results_of('scale'), ' '.join(README.split())
    path, memory = results['path'], results['memory']
    assert path['kernels'] == 262_144 and path['seconds'] <= 60 and path['32768']['length_over_greedy'] <= 1
    assert memory['peak_mb'] < 4000 and results['ordering']['resnet18, random weights']['seconds'] <= 180
    for name, run in results['ordering'].items():
        assert f"| {name} | {run['kernels']:,} | {run['seconds']:.1f} s |" in README
    shares = [run['share'] for run in results['reconstruction'].values()]
    assert min(shares) >= 0.5
    for said in (f"takes {path['seconds']:.1f} s and {path['peak_mb'] - path['peak_mb_before']} MB",
                 f"{100 * (1 - path['32768']['length_over_greedy']):.1f} % shorter",
                 *(f"{run['kernels_per_second']:,}" for run in results['reconstruction'].values()),
                 ' and '.join(f'{100 * share:.0f} %' for share in shares), f"at most {memory['peak_mb']:,} MB"):
        assert said in text, said


def test_figures_of_killed_runs():
    results = results_of('kill_and_resume')
    assert results['equal'] == results['kills'] == len(results['runs']) == 10
    assert sum(run['equal'] for run in results['runs']) == 10
    assert results['killed'] == 10  # before their end


def test_figures_of_reconstruction_alone():
    results = results_of('reconstruction_resnet20')
    ours, nern = results['uos_rff'], results['nern']
    assert len(ours) == 3 and all(run['top1'] >= 84 for run in ours)
    assert all(run['ordering_seconds'] + run['training_seconds'] <= 120 for run in ours)
    row = next(line for line in README.splitlines() if line.startswith('| UOS + UOS-RFF'))
    for run in ours:
        assert f"{run['top1']:.2f}" in row
    row = next(line for line in README.splitlines() if line.startswith("| NeRN's"))
    assert f"{nern['top1']:.2f}" in row and f"{nern['reconstruction_error']:.3f}" in row


def test_figures_of_the_created_model():
    results = results_of('created_model_resnet20')
    assert results['forward_ratio'] < 1.05
    assert f"{results['forward_ratio']:.2f} times that of the original" in README


LOADED = (('ResNet-20, shipped', 'resnet20_cifar10', 'shipped'), ('ResNet-18, shipped', 'resnet18', 'shipped'),
          ('ResNet-18, axis', 'resnet18', 'axis'), ('ResNet-50, axis', 'resnet50', 'axis'),
          ('ResNet-50, layer', 'resnet50', 'layer'))


@pytest.mark.parametrize('label, network, variant', LOADED)
def test_figures_of_loading(label, network, variant):
    full = results_of('load')['networks'][network]
    ours = full[variant]
    assert ours['second_over_full'] <= 1.3 and ours['peak_mb_above_model'] <= 256
    row = ' | '.join([
        label, f"{ours['bytes']:,}", f"{full['full_ms']:.0f} ms",
        f"{ours['second_ms']:.0f} ms ({ours['second_over_full']:.2f} x)",
        f"{ours['first_ms']:.0f} ms ({ours['first_over_full']:.1f} x)", f"{ours['generation']['ms']:.0f} ms",
        f"{ours['generation']['limit_ms']:.0f} ms", f"{ours['peak_mb_above_model']:.0f} MB"])
    assert f'| {row} |' in README
    faster = ' | '.join(f"{ours[f'faster_than_{peer}_below_mbit']:,.0f} Mbit/s" for peer in ('full', 'int8'))
    assert f'| {label} | {faster} |' in README
    assert ours['first_over_full'] <= 3 or ours['generation']['share_of_limit'] >= 0.7 or network == 'resnet20_cifar10'


def test_figures_of_what_loading_consists_of():
    results, text = results_of('load'), ' '.join(README.split())
    shares = sorted(results['networks'][network][variant]['generation']['share_of_limit']
                    for _, network, variant in LOADED)
    folded, unfolded = (results['networks']['resnet18'][key] for key in ('axis', 'unfolded'))
    for said in (
            f'to {100 * shares[0]:.0f} % (ResNet-20', f'and to {100 * shares[1]:.0f} to {100 * shares[-1]:.0f} %',
            f"{folded['generation']['kernels']:,} kernels at {folded['generation']['places']:,} places",
            f"{folded['generation']['gflop']:.1f} GFLOP",
            f"{unfolded['gflop']:,.1f} GFLOP and {unfolded['ms'] / 1000:.1f} s", f"{results['bfloat16_error']:.1e}"):
        assert said in text, said


def test_figures_of_folding():
    results = results_of('folding')
    assert set(results['networks']) == {'resnet20', 'resnet56', 'resnet18'}
    for network, rows in results['networks'].items():
        for row in rows:
            top1 = f"{row['top1']:.2f} %" if 'top1' in row else ''
            assert (f"| ResNet-{network[6:]} | {row['max_places'] or 'no limit'} | {row['places']:,} | "
                    f"{row['gflop']:,.1f} | {row['error']:.3f} | {top1} |") in README


def test_figures_of_the_spectral_bias():
    results, text = results_of('spectrum'), ' '.join(README.split())
    kernels = results['tangent_kernels']
    before = kernels['before']
    assert f"k^{before['slope']['empirical']}" in text and f"k^{before['slope']['theory']}" in text
    assert f"below {before['half_of_the_trace_below']['empirical']} cycles over the path" in text
    for s in (4, 16):
        assert kernels[f'after, s = {s}']['half_of_the_trace_below']['empirical'] == s
        assert f'{s} cycles for s = {s}' in text or f'{s} for s = {s}' in text
    bands = results['bands']
    octave = bands['first_frequency_of_band'].index(128)

    def errors(name):
        return {row['step']: row['errors'] for row in bands[name]}

    ours, nern = errors('UOS and UOS-RFF'), errors("NeRN's configuration")
    assert (f'{ours[160][octave]:.2f} after 160 steps and {ours[1280][octave]:.2f} after 1,280; '
            f"NeRN's configuration {nern[160][octave]:.2f} and {nern[1280][octave]:.2f}") in text
    assert min(*ours[1280][10:], *nern[1280][10:]) > 0.9


def test_figures_of_robustness():
    results = results_of('robustness')
    for base, members in results['summary'].items():
        assert set(members) >= {name for name in ALL_SHIPPED if base in name}
        for name, found in members.items():
            label = f'`{name}`' if name in ALL_SHIPPED else name
            values = [f"{found[images][what]:.{digits}f} %" for what, digits in (
                ('top1', 2), ('agreement', 1), ('calibration_error', 1)) for images in ('clean', 'corrupted')]
            assert f"| ResNet-{base[6:8]} | {label} | {' | '.join(values)} |" in README


def ablations():
    """Summaries of ResNet-20 and ResNet-56."""
    return [results_of(f'ablation_{network}')['summary'] for network in ('resnet20', 'resnet56')]


def with_spreads(row, top1_digits=1):
    """Cells of error and accuracy; none where nothing was measured."""
    return ['', ''] if row is None else [
        f"{row[what]:.{digits}f} ± {row[f'{what}_spread'] / 2:.{digits}f}"
        for what, digits in (('error', 3), ('top1', top1_digits))]


def test_tables_of_the_ablation():
    resnet20, resnet56 = ablations()
    for summary in (resnet20, resnet56):
        assert all(row['seeds'] == 3 for regime, rows in summary.items() for row in rows.values()
                   if regime != 'bandwidth trials')
        packed = [rows for regime, rows in summary.items() if regime.endswith(' bytes')]
        for name in GRANULARITIES:
            cells = [cell for rows in packed for cell in (
                with_spreads(rows[name]) if name in rows else ['does not fit', ''])]
            assert f"| {name} | {' | '.join(cells)} |" in README
    for name in resnet20['parameters']:
        cells = [cell for summary in (resnet20, resnet56) for cell in (
            *with_spreads(summary['parameters'][name]), with_spreads(summary['distilled'].get(name))[1])]
        assert f"| {name} | {' | '.join(cells)} |" in README
    for name in set(resnet20['110k bytes']) - set(GRANULARITIES):
        cells = with_spreads(resnet20['110k bytes'][name]) + with_spreads(resnet56['240k bytes'].get(name))
        assert f"| {name} | {' | '.join(cells)} |" in README
    for name in GRANULARITIES:
        accuracy = with_spreads(resnet20['80k bytes, distilled'][name], top1_digits=2)[1]
        assert f'| {name} | {accuracy} |' in README


def test_answers_of_the_ablation():
    text = ' '.join(README.split())
    for summary in ablations():
        rows = summary['parameters']
        ours = rows['UOS and UOS-RFF']
        for said in (f"{rows['UOS-RFF alone']['error'] / ours['error']:.1f} times",
                     f"{100 * (1 - ours['error'] / rows['UOS alone']['error']):.0f} %",
                     f"{100 * (1 - ours['error'] / rows['p = 0']['error']):.0f} %",
                     f"{rows['p = 0']['top1']:.1f} and {ours['top1']:.1f} %"):
            assert said in text, said
        best = {regime.removesuffix('k bytes'): min((name for name in rows if name in GRANULARITIES),
                                                    key=lambda name: rows[name]['error'])
                for regime, rows in summary.items() if regime.endswith(' bytes')}
        assert ', '.join(f'{name} in {size} kB' for size, name in best.items()) in text
