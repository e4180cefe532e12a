"""Statistics and steps of the second-order phase, on as many processes as started it; prints JSON.

    accelerate launch --multi_gpu --num_processes 2 tests/second_order_worker.py WEIGHTS
"""
import copy
import dataclasses
import json
import sys

import torch

from timm_sbs.artifact.original import load_original
from timm_sbs.cli.demo import demo_batches, load_demo_images
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics, collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.options.settings import ReconstructionSettings, SecondOrderSettings
from timm_sbs.training.steps.reconstruction import reconstruct
from timm_sbs.training.steps.second_order import second_order
from timm_sbs.training.steps.two_stage import TwoStageGenerator

IMAGES = 100


def main() -> None:
    accelerator = make_accelerator('no')
    original = load_original('resnet20_cifar10', sys.argv[1])
    chosen = design(original, pct=10.)
    permutations = find_orderings(original, chosen.specs, chosen.generator.ordering, accelerator)
    artifact = start_artifact(chosen, permutations, original, seed=0)
    uses = find_uses(original, chosen.specs, torch.zeros(1, 3, 32, 32))
    images = torch.cat([x for x, _ in demo_batches(load_demo_images(), original.pretrained_cfg)])[:IMAGES]
    mine = images[accelerator.process_index::accelerator.num_processes].split(50)
    statistics, _ = collect_statistics(original, uses, mine, IMAGES, accelerator)
    energies = {name: float(layer.second_moment.diagonal(dim1=-2, dim2=-1).sum()) for name, layer in statistics.items()}
    reconstruct(
        artifact.generator, original.state_dict(), ReconstructionSettings(100, batch_size=2048),
        accelerator=accelerator)
    # Steps are compared on statistics that are equal on both numbers of processes.
    equal = {name: LayerStatistics(
        torch.eye(use.size).expand_as(statistics[name].second_moment), torch.zeros_like(statistics[name].mean),
        torch.zeros(()), torch.ones_like(statistics[name].importance)) for name, use in uses.items()}
    divergence = ExpectedDivergence(chosen.specs, original.state_dict(), uses, equal, damping=1e-3)
    results = {'processes': accelerator.num_processes, 'energies': energies,
               'before': divergence.total(artifact.stored_weights())}
    for name, batch_size in (('filters', 8192), ('whole', 1 << 20)):
        trained = dataclasses.replace(artifact, generator=copy.deepcopy(artifact.generator))
        two_stage = TwoStageGenerator(trained.generator)
        second_order(two_stage, divergence, SecondOrderSettings(4, lr=2e-3, batch_size=batch_size), accelerator)
        results[name] = divergence.total(trained.stored_weights())
    parameters = torch.cat([p.detach().flatten() for p in two_stage.predictor.parameters()])
    everyone = accelerator.gather(parameters[None])
    if accelerator.is_main_process:
        print(json.dumps({**results, 'processes_agree': bool((everyone == everyone[0]).all())}))
    accelerator.end_training()


if __name__ == '__main__':
    main()
