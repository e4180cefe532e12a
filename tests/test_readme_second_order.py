"""The README's figures of the second-order phase are those of its results files."""
import importlib.util
import json
import sys

from conftest import README, RESULTS


def results_of(name):
    return json.loads((RESULTS / f'{name}.json').read_text())


def benchmark(name, monkeypatch):
    folder = RESULTS.parent
    monkeypatch.setattr(sys, 'path', [str(folder), *sys.path])
    spec = importlib.util.spec_from_file_location(name, folder / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_accuracies_is_made_of_the_results(monkeypatch):
    rows = benchmark('second_order', monkeypatch).table(results_of('second_order'))
    assert len(rows) > 5 and '\n'.join(rows) in README


def test_steps_of_distillation():
    results = results_of('second_order_distillation')
    assert f"{results['target']:.1f} %" in README
    starts = {'from_reconstruction': 'reconstruction alone', 'from_second_order': 'second order',
              'from_second_order_fixed': 'second order, its statistics kept'}
    found = [start for start in starts if start in results]
    assert len(found) >= 2
    for start in found:
        words, run = starts[start], results[start]
        curve = ' | '.join(f"{run['top1'][step]:.2f}" for step in ('0', '50', '100', '200', '400', '600'))
        reached = run['steps_to_target'] or f"not in {results['steps']}"
        assert f"| {words} | {curve} | {reached} |" in README


def test_networks_of_imagenet():
    results = results_of('second_order_imagenet')
    lite0 = results['efficientnet_lite0']
    assert f"{lite0['original_top1']:.1f} %" in README
    for phase in lite0['phases']:
        assert (f"| {phase['phase']}, {phase['steps']:,} steps | {phase['agreement']:.1f} % | {phase['top1']:.1f} % | "
                f"{phase['corrected']['agreement']:.1f} % | {phase['corrected']['top1']:.1f} % | "
                f"{phase['seconds']:.0f} s |") in README
    for name, run in results['statistics'].items():
        assert (f"| ResNet-{name[6:]} | {run['forward_ms']:.0f} ms | {run['statistics_ms']:.0f} ms | "
                f"{run['bytes'] / 1e6:.0f} MB | {run['peak_mb_before']:,} MB | {run['peak_mb']:,} MB |") in README
