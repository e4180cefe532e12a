"""Reconstruction, statistics and second order on as many processes as started it; prints JSON.

    accelerate launch --multi_gpu --num_processes 2 tests/phases_worker.py WEIGHTS
"""
import json
import sys
from typing import Any

import resnet8
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from timm_sbs.artifact.original import load_original
from timm_sbs.cli.demo import demo_batches, load_demo_images
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.loop import Context
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics, collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.phase_settings import Reconstruction, SecondOrder
from timm_sbs.training.phases.reconstruction import reconstruct
from timm_sbs.training.phases.second_order import fit_second_order
from timm_sbs.training.settings import Target

IMAGES = 100


def measured(accelerator: Accelerator, weights: str) -> dict[str, Any]:
    """What the phases lead to, and whether all processes have the same in the end."""
    original = load_original(resnet8.NAME, weights)
    state = original.state_dict()
    chosen = design(original, Target(pct=10., keep=('layer3.*',)))
    permutations = find_orderings(original, chosen.specs, chosen.generator.ordering)
    artifact, context = start_artifact(chosen, permutations, original, seed=0), Context(accelerator)
    kernels = []

    def count(predictor, inputs, outputs):
        if torch.is_grad_enabled():  # not while the error is measured
            kernels.append(len(outputs))

    hook = artifact.generator.predictor.register_forward_hook(count)
    artifact = reconstruct(artifact, state, Reconstruction(60), context)
    hook.remove()
    results = {'error': context.results['reconstruction_error'], 'kernels': gather_object([sum(kernels)])}

    uses = find_uses(original, chosen.weights, torch.zeros(1, 3, 32, 32))
    images = torch.cat([x for x, _ in demo_batches(load_demo_images(), original.pretrained_cfg)])[:IMAGES]
    mine = images[accelerator.process_index::accelerator.num_processes].split(25)
    statistics, seen = collect_statistics(original, uses, mine, IMAGES, accelerator)
    results['energies'] = {
        name: float(layer.second_moment.diagonal(dim1=-2, dim2=-1).sum()) for name, layer in statistics.items()}
    results['images'] = seen
    # Steps are compared on statistics that are equal on all numbers of processes.
    equal = {name: LayerStatistics(
        torch.eye(use.size).expand_as(statistics[name].second_moment), torch.zeros_like(statistics[name].mean),
        torch.ones_like(statistics[name].importance), torch.tensor(1.)) for name, use in uses.items()}
    divergence = ExpectedDivergence(
        {name: state[name] for name in chosen.weights}, uses, equal, damping=1e-3)
    results['before'] = divergence.total(artifact.stored_weights())
    artifact = fit_second_order(artifact, state, divergence, SecondOrder(4, 2e-3), Context(accelerator))
    results['after'] = divergence.total(artifact.stored_weights())
    parameters = torch.cat([p.detach().flatten() for p in artifact.generator.predictor.parameters()])
    everyone = accelerator.gather(parameters[None])
    return {**results, 'processes_agree': bool((everyone == everyone[0]).all())}


def main() -> None:
    accelerator = make_accelerator('no')
    found = measured(accelerator, sys.argv[1])
    if accelerator.is_main_process:
        print(json.dumps(found))
    accelerator.end_training()


if __name__ == '__main__':
    main()
