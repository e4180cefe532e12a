"""The table of accuracy over bytes: predictors and rounded weights, trained with the same losses."""
from collections.abc import Mapping
from typing import Any

from table_makers.sources import markdown, network_name, results_of

WORDS = {  # in the order of the table
    'shipped': 'a predictor of 5 bits', 'generation': 'a predictor of 3 bits',
    'rounding': 'rounded, trained',
    'rounding, low rate': 'rounded, trained less', 'rounding, untrained': 'rounded by second order',
    'floats': 'a predictor of floats'}


def _bits(point: Mapping[str, Any]) -> str:
    found = point['bits_per_parameter'] or point['bits_per_rounded_weight']
    return f'{found:.2f}' if found and point['method'] != 'floats' else ''


def frontier() -> list[str]:
    """All points, from the smallest file of each network on."""
    points = sorted(results_of('frontier')['points'], key=lambda p: (
        p['network'], [*WORDS].index(p['method']), p['bytes']))
    return markdown(
        ['network', 'weights', 'bytes', 'top-1', 'divergence, held out', 'steps on images', 'bits of a number'],
        [(network_name(p['network']), WORDS[p['method']], f"{p['bytes']:,}", f"{p['top1']:.2f} %",
          f"{p['holdout_divergence']:.3f}" if p['holdout_divergence'] is not None else '', f"{p['steps']:,}", _bits(p))
         for p in points])


MAKERS = {'frontier': frontier}
