"""What second-order rounding without training leaves on the table: CERWU and a trellis beside ours, at equal bits.

    python tests/benchmarks/rounding_methods.py --images ROOT --weights FILE

ROOT and FILE are those of imagenet.py. All methods round the same weights by the same statistics of photographs, by one
slope of divergence for a bit. Rows keep their length in none of them, which is another matter:

- ours: each value is settled in turn, those after it make up for its error, and then all are settled again;
- ours, settled once: without the last part;
- CERWU (arXiv 2505.18758), our reading: settled once, and every error of an output counts the same, in all layers: so
  much that the middle slope leads to as many bits as ours;
- trellis: two grids of twice the step, by the parities of the integers before (trellis.py).

Bits are those of an ideal entropy coder with a table for each weight (for each grid of it). Divergence is the expected
one, agreement that of the first 1,300 photographs. Results are written after every row, and what is written is not
measured again. Takes an hour on one CPU thread.
"""
import argparse
import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch
from common import environment, percent, predictions, read_results, replaced, timed, validation_batches, write_results
from imagenet_photographs import load_lite, resnet18
from torch import Tensor, nn
from trellis import round_by_trellis

from timm_sbs.codec.quantization import dequantize, step_sizes
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.predictor.selection import SelectionRule, select_rounded
from timm_sbs.training.losses.divergence import Curvature, ExpectedDivergence
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.plan import settled_precision
from timm_sbs.training.rounding.all_weights import entropy_bits
from timm_sbs.training.rounding.one_weight import QUICK, THOROUGH, _prior, round_weight, step_code

NAME, STATISTICS_IMAGES, DAMPING = 'rounding_methods', 1000, 1e-2
SLOPES, HALVINGS = (1e-8, 3e-8, 1e-7), 8  # nats for a bit
FINER = 0.65  # step of a trellis over that of plain rounding with the same slope: the best of 0.55 to 0.9
Rounded = tuple[Tensor, float]  # values and bits


def ours(weight: Tensor, curvature: Curvature, slope: float, passes: int = THOROUGH) -> Rounded:
    found = round_weight(weight, curvature, slope, passes)
    return dequantize(found), entropy_bits(found.integers)


def settled_once(weight: Tensor, curvature: Curvature, slope: float) -> Rounded:
    return ours(weight, curvature, slope, QUICK)


def trellis(weight: Tensor, curvature: Curvature, slope: float) -> Rounded:
    step = FINER * float(step_sizes(step_code(curvature, slope)))
    found = round_by_trellis(weight, curvature, step, slope, _prior(weight, curvature, slope))
    return found.values, found.bits


METHODS: Mapping[str, Callable[[Tensor, Curvature, float], Rounded]] = {
    'ours': ours, 'ours, settled once': settled_once, 'CERWU, our reading': settled_once, 'trellis': trellis}


def free_of_fisher(
        weights: Mapping[str, Tensor], curvatures: Mapping[str, Curvature], slope: float,
) -> dict[str, Curvature]:
    """Curvatures of squared errors of the outputs, all of which count the same: so much that a slope leads to as many
    bits as with Fisher information."""
    def at(scale: float) -> dict[str, Curvature]:
        return {name: dataclasses.replace(curvature, importance=torch.full_like(curvature.importance, scale))
                for name, curvature in curvatures.items()}

    def bits(used: Mapping[str, Curvature]) -> float:
        return sum(settled_once(weight, used[name], slope)[1] for name, weight in weights.items())

    mean = sum(float(curvature.importance.mean()) for curvature in curvatures.values()) / len(curvatures)
    wanted, low, high = bits(curvatures), math.log(mean) - 12, math.log(mean) + 12
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if bits(at(math.exp(middle))) < wanted else (low, middle)
    return at(math.exp(low))


def measure(
        name: str, load: Callable[[], nn.Module], root: Path, measured: Collection[tuple[object, ...]],
) -> Iterator[dict[str, object]]:
    """A row for each method and slope that is not measured yet."""
    wanted = {method: [slope for slope in SLOPES if (name, method, slope) not in measured] for method in METHODS}
    if not any(wanted.values()):
        return
    original = load()
    state = {name: tensor.detach() for name, tensor in original.state_dict().items()}
    images = validation_batches(root, original, 'train', count=STATISTICS_IMAGES)
    validation = validation_batches(root, original, 'validation', str(root / 'imagenet_classes.txt'))
    expected = predictions(original, validation)
    weights = {name: state[name] for name in select_rounded(original, SelectionRule('rounding'), ())}
    uses = find_uses(original, list(weights), images[0][0][:1])
    statistics, _ = collect_statistics(
        original, uses, (part for batch, _ in images for part in batch.split(25)), STATISTICS_IMAGES,
        make_accelerator(settled_precision('auto')), 0)
    divergence = ExpectedDivergence(weights, uses, statistics, DAMPING)
    size = sum(weight.numel() for weight in weights.values())
    curved = {key: dataclasses.replace(curvature, coupling=1.) for key, curvature in divergence.curvatures.items()}
    for method, slopes in wanted.items():
        rounding = METHODS[method]
        used = free_of_fisher(weights, curved, SLOPES[1]) if 'CERWU' in method and slopes else curved
        for slope in slopes:
            found, seconds = timed(lambda rounding=rounding, used=used, slope=slope: {
                key: rounding(weight, used[key], slope) for key, weight in weights.items()})
            values = {key: value for key, (value, _) in found.items()}
            model = load()
            changes = divergence.corrections(values)
            model.load_state_dict({**state, **values, **{key: state[key] + change for key, change in changes.items()}})
            yield {
                'network': name, 'method': method, 'slope': slope, 'seconds': round(seconds),
                'bits': round(sum(bits for _, bits in found.values()) / size, 4),
                'divergence': round(divergence.total(values), 5),
                'agreement': percent(predictions(model, validation) == expected)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True)
    args = parser.parse_args()
    for network, load in {'lite0': lambda: load_lite(0), 'resnet18': lambda: resnet18(args.weights)}.items():
        rows = read_results(NAME).get('rows', [])
        measured = {(row['network'], row['method'], row['slope']) for row in rows}
        for row in measure(network, load, args.images, measured):
            print(row, flush=True)
            write_results(NAME, {
                'command': f'python tests/benchmarks/{NAME}.py --images ROOT --weights FILE', 'seed': 0,
                'statistics_images': STATISTICS_IMAGES, **environment(),
                'rows': replaced(read_results(NAME).get('rows', []), row, 'network', 'method', 'slope')})


if __name__ == '__main__':
    main()
