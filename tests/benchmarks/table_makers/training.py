"""Tables of training: second order, reconstruction, without images, and what a step costs."""

from table_makers.sources import markdown, network_name, results_of, spread

_STARTS = {'from_reconstruction': 'reconstruction alone', 'from_second_order': 'second order',
           'from_second_order_fixed': 'second order, its statistics kept'}
_PRECISIONS = {'no': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}
_STEPS = (0, 50, 100, 200, 400, 600)


def second_order() -> list[str]:
    rows = []
    for name, network in results_of('second_order')['networks'].items():
        for pct in sorted({run['pct'] for run in network['runs']}):
            cells = [spread([run['top1'] for run in network['runs'] if (run['kind'], run['pct']) == (kind, pct)])
                     for kind in ('weights', '100', '500', '2000', 'inversion')]
            seconds = [run['seconds'] for run in network['runs'] if (run['kind'], run['pct']) == ('2000', pct)]
            rows.append((network_name(name), f'{pct:g} %', *cells, f'{max(seconds):.0f}'))
    return markdown(['network', 'size', 'weights alone', '100 images', '500 images', '2,000 images', 'drawn images',
                     'seconds'], rows)


def second_order_distillation() -> list[str]:
    results = results_of('second_order_distillation')
    rows = [(words, *(f"{results[start]['top1'][str(step)]:.2f}" for step in _STEPS),
             str(results[start]['steps_to_target'] or f"not in {results['steps']}"))
            for start, words in _STARTS.items() if start in results]
    return markdown(['from', *map(str, _STEPS), f"steps to {results['target']:.1f} %"], rows)


def second_order_lite0() -> list[str]:
    lite0 = results_of('second_order_imagenet')['efficientnet_lite0']
    rows = [('the original', '100.0 %', f"{lite0['original_top1']:.1f} %", '', '', '')]
    rows += [(f"{phase['phase']}, {phase['steps']:,} steps", f"{phase['agreement']:.1f} %", f"{phase['top1']:.1f} %",
              f"{phase['corrected']['agreement']:.1f} %", f"{phase['corrected']['top1']:.1f} %",
              f"{phase['seconds']:.0f} s") for phase in lite0['phases']]
    return markdown(['after', 'agreement', 'top-1', 'agreement, corrected', 'top-1, corrected', 'time'], rows)


def statistics() -> list[str]:
    rows = [(network_name(name), f"{run['forward_ms']:.0f} ms", f"{run['statistics_ms']:.0f} ms",
             f"{run['bytes'] / 1e6:.0f} MB", f"{run['peak_mb_before']:,} MB", f"{run['peak_mb']:,} MB")
            for name, run in results_of('second_order_imagenet')['statistics'].items()]
    return markdown(['network', 'forward pass', 'statistics', 'size', 'memory before', 'at the most'], rows)


def reconstruction() -> list[str]:
    results = results_of('reconstruction_resnet20')
    rows = []
    for words, runs in (('UOS + UOS-RFF, the default', results['uos_rff']),
                        ("NeRN's configuration", [results['nern']])):
        for seed, run in zip(results['seeds'], runs):
            rows.append((words, str(seed), f"{run['reconstruction_error']:.3f}", f"{run['top1']:.2f} %",
                         f"{run['training_seconds']:.0f} s"))
    return markdown(['configuration', 'seed', 'error', 'top-1', 'time'], rows)


def data_free() -> list[str]:
    results = results_of('data_free_resnet20')
    [alone] = {run['reconstruction_top1'] for kind in ('white noise', 'noise', 'inversion') for run in results[kind]}
    rows = [('none: reconstruction alone', f'{alone:.2f} %')]
    for kind, words in (('white noise', 'white noise'),
                        ('noise', 'noise with the spectrum of photographs (`--data-free noise`)'),
                        ('inversion', '512 images that match the BatchNorm statistics (`--data-free inversion`)')):
        rows.append((words, ', '.join(f"{run['last_top1']:.2f} %" for run in results[kind])))
    return markdown(['images', 'top-1'], rows)


def nern_loop() -> list[str]:
    results = results_of('nern_loop')
    rows = [(network_name(network), *(
        f"{run['error']:.3f} after {run['seconds']:{digits}f} s ({run['steps']:,} steps)"
        for run, digits in ((results[network]['ours'], '.1'), (results[network]['nern'], '.0'))))
        for network in ('resnet20', 'resnet56')]
    return markdown(['network', 'ours', "NeRN's loop"], rows)


def overhead() -> list[str]:
    rows = [(network_name(network), words, f"{methods[method]['ordering_seconds']:.2f} s",
             f"{methods[method]['step_ms']:.1f} ms", f"{methods[method]['peak_mb']} MB",
             f"{methods[method]['generating_ms']:.1f} ms")
            for network, methods in results_of('overhead')['networks'].items()
            for method, words in (('ours', 'ours'), ('nern', "NeRN's loop"))]
    return markdown(['network', 'method', 'ordering', 'step', 'peak memory', 'generating all weights'], rows)


def distillation_step() -> list[str]:
    cells = []
    for row in results_of('distillation_step')['rows']:
        cells.append((
            network_name(row['network']), f"{row['pixels']}, {row['batch_size']}",
            f"{row['hardware']}, {_PRECISIONS[row['precision']]}",
            *(f'{value:,.1f} ms' for value in row['milliseconds'].values()), f"{row['images_per_second']:,.0f}",
            f"{100 * row['share_of_parts']:.0f} %", f"{100 * row['share_of_product_rate']:.1f} %"))
    return markdown(['network', 'pixels, batch', 'on', 'original', 'network', 'predictor', 'a step',
                     'images a second', 'of the parts', 'of a product'], cells)


def gpu_generation() -> list[str]:
    results = results_of('gpu')
    cells = [
        (row['entry'], f"{row['ms']:.1f} ms", f"{row['first_ms']:.0f} ms", f"{row['features_ms']:.1f} ms",
         f"{row['perceptron_ms']:.1f} ms", f"{row['limit_ms']:.1f} ms",
         f"{row['peak_memory_mb'] - row['weights_mb']:.0f} MB") for row in results['generation']]
    return markdown([f"predictor, on one {results['hardware']}", 'generated in', 'the first time', 'features',
                     'perceptron', 'its products', 'memory beside the weights'], cells)


def gpu_reconstruction() -> list[str]:
    cells = [
        (network_name(row['network'].removesuffix('_cifar10')), row['precision'], f"{row['steps']:,}",
         f"{row['error']:.5f}", f"{row['ms_per_step']:.1f} ms") for row in results_of('gpu')['reconstruction']]
    return markdown(['network', 'precision', 'steps', 'error', 'a step'], cells)


def batches() -> list[str]:
    results = results_of('batches')
    rows = [(kind, *(f'{rates[workers]:,}' if workers in rates else '' for workers in ('0', '1', '2')))
            for kind, rates in results['images_per_cpu_second'].items()]
    rows.append(('a ResNet-20 is distilled on', f"{results['distilled_per_cpu_second']:,}", '', ''))
    reading = results['reading']
    rows.append((f"{reading['images']:,} images are read and decoded, {reading['memory_grown'] / 1e6:.0f} MB, in",
                 f"{reading['cpu_seconds']:.1f} s", '', ''))
    return markdown(['images for a second of processor time', 'no reader', '1 reader', '2 readers'], rows)


def threads() -> list[str]:
    results = results_of('threads')
    rows = [(name.replace('all', f"{results['threads']}"), f"{step['cpu_seconds']:.2f} s", f"{step['seconds']:.2f} s")
            for name, step in results['step'].items()]
    return markdown([f"a step on {results['cores']} cores, load {results['load']:.0f}", 'processor time', 'elapsed'],
                    rows)


def kill_and_resume() -> list[str]:
    results = results_of('kill_and_resume')
    rows = [('runs that were started', str(results['kills'])), ('killed before their end', str(results['killed'])),
            ('ended with the same tensors after they were resumed', str(results['equal']))]
    return markdown(['what', 'runs'], rows)


MAKERS = {
    'second_order': second_order, 'second_order_distillation': second_order_distillation,
    'second_order_lite0': second_order_lite0, 'statistics': statistics, 'reconstruction': reconstruction,
    'data_free': data_free, 'nern_loop': nern_loop, 'overhead': overhead, 'distillation_step': distillation_step,
    'gpu_generation': gpu_generation, 'gpu_reconstruction': gpu_reconstruction,
    'kill_and_resume': kill_and_resume, 'batches': batches, 'threads': threads}
