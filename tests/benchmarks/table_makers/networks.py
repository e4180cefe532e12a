"""Tables of networks: spectra, EfficientNet-Lite0, corrupted images, sizes of ImageNet networks."""

from table_makers.sources import markdown, network_name, results_of


def spectrum_kernels() -> list[str]:
    rows = []
    for name, kernel in results_of('spectrum')['tangent_kernels'].items():
        if isinstance(kernel, dict):
            half = kernel['half_of_the_trace_below']
            words = 'the coordinate itself' if name == 'before' else f"random features,{name.partition(',')[2]}"
            rows.append((words, f"{kernel['slope']['empirical']:g}", f"{kernel['slope']['theory']:g}",
                         f"{half['empirical']:g}", f"{half['theory']:g}"))
    return markdown(['what the perceptron reads', 'slope, measured', 'slope, theory',
                     'half of the trace below (cycles)', 'the same, theory'], rows)


def spectrum_bands() -> list[str]:
    bands = results_of('spectrum')['bands']
    first = bands['first_frequency_of_band']
    shown = [i for i, frequency in enumerate(first) if frequency >= 128]
    rows = [(name, f"{row['step']:,}", *(f"{row['errors'][i]:.2f}" for i in shown))
            for name in ('UOS and UOS-RFF', "NeRN's configuration") for row in bands[name]
            if row['step'] in (160, 1280)]
    return markdown(['configuration', 'step', *(f'from {first[i]:,} cycles' for i in shown)], rows)


def efficientnet_lite0() -> list[str]:
    results = results_of('efficientnet_lite0')
    rows = []
    for key, name in (('uos_rff_folded', 'UOS-RFF, folded'), ('uos_rff', 'UOS-RFF'), ('rff', 'RFF, one bandwidth'),
                      ('nern', "NeRN's configuration"), ('uos_rff_tokens_of_4', 'UOS-RFF, tokens of 4 channels'),
                      ('rounding', 'rounding + coding')):
        rows += [(name, f"{run['bits']} bits" if 'bits' in run else f"{run['pct']:g} %",
                  *(f"{run[kind]:.4f}" for kind in ('error', 'depthwise_error', 'pointwise_error')),
                  f"{run['bytes']:,}", f"{run['agreement']:.1f} %") for run in results[key]]
    rows.append(('always the most frequent class', '', '', '', '', '', f"{results['agreement_by_chance']:.1f} %"))
    return markdown(['method', 'size', 'error', 'depthwise', 'pointwise', 'bytes', 'agreement'], rows)


def robustness() -> list[str]:
    rows = []
    for base, members in results_of('robustness')['summary'].items():
        for name, found in members.items():
            label = f'`{name}`' if name.startswith('sbs_') else name
            rows.append((network_name(base), label, *(
                f"{found[images][what]:.{digits}f} %" for what, digits in (
                    ('top1', 2), ('agreement', 1), ('calibration_error', 1)) for images in ('clean', 'corrupted'))))
    return markdown(['network', 'method', 'top-1, clean', 'corrupted', 'agreement, clean', 'corrupted',
                     'calibration error, clean', 'corrupted'], rows)


def scale_ordering() -> list[str]:
    rows = [(name, f"{run['kernels']:,}", f"{run['seconds']:.1f} s")
            for name, run in results_of('scale')['ordering'].items()]
    return markdown(['network', 'tokens', 'ordering'], rows)


def scale() -> list[str]:
    results = results_of('scale')
    path, memory = results['path'], results['memory']
    shorter = 100 * (1 - path['32768']['length_over_greedy'])
    rows = [
        (f"one path over {path['kernels']:,} kernels", f"{path['seconds']:.1f} s"),
        ('memory of that path', f"{path['peak_mb'] - path['peak_mb_before']} MB"),
        ('a path over 32,768 kernels is shorter than the greedy nearest-neighbour path by', f'{shorter:.1f} %')]
    for name, run in results['reconstruction'].items():
        rows += [(f'reconstruction of {name}, at 15 %', f"{run['kernels_per_second']:,} kernels a second"),
                 ('of the rate of its matrix products alone', f"{100 * run['share']:.0f} %")]
    rows.append((f"memory of fitting {memory['network']} at 15 %, at the most", f"{memory['peak_mb']:,} MB"))
    return markdown(['what', 'measured'], rows)


def equal_kernels() -> list[str]:
    rows = [(name, f"{run['kernels']:,}", f"{run['distinct']:,}", f"{run['cpu_seconds']:.1f} s",
             f"{run['kernels'] / run['cpu_seconds']:,.0f}",
             f"{100 * run['tree_query_cpu_seconds'] / run['cpu_seconds']:.0f} %", f"{run['length']:,.1f}")
            for name, run in results_of('equal_kernels')['resnet18'].items()]
    return markdown(['ResNet-18', 'tokens', 'distinct', 'ordering', 'tokens a second',
                     'of the rate of the queries alone', 'length of the paths'], rows)


MAKERS = {
    'spectrum_kernels': spectrum_kernels, 'spectrum_bands': spectrum_bands, 'efficientnet_lite0': efficientnet_lite0,
    'robustness': robustness, 'scale_ordering': scale_ordering, 'scale': scale,
    'equal_kernels': equal_kernels}
