"""Reconstruction alone, on as many processes as started it; prints JSON.

    accelerate launch --multi_gpu --num_processes 2 tests/reconstruction_worker.py WEIGHTS STEPS BATCH
"""
import json
import sys

import torch
from accelerate.utils import gather_object

from timm_sbs.artifact.original import load_original
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.steps.reconstruction import reconstruct


def main() -> None:
    weights, steps, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    accelerator = make_accelerator()
    original = load_original('resnet20_cifar10', weights)
    chosen = design(original, pct=20.)
    permutations = find_orderings(original, chosen.specs, chosen.generator.ordering, accelerator)
    generator = start_artifact(chosen, permutations, original, seed=0).generator
    tokens = 0

    def count(predictor, inputs, outputs):
        nonlocal tokens
        if torch.is_grad_enabled():  # not while the error is measured
            tokens += len(outputs)

    generator.predictor.register_forward_hook(count)
    error = reconstruct(
        generator, original.state_dict(), ReconstructionSettings(steps, batch_size=batch_size),
        accelerator=accelerator)
    parameters = torch.cat([p.detach().flatten() for p in generator.parameters()])
    everyone, tokens_each = accelerator.gather(parameters[None]), gather_object([tokens])
    if accelerator.is_main_process:
        print(json.dumps({
            'error': error, 'tokens': tokens_each, 'processes_agree': bool((everyone == everyone[0]).all())}))
    accelerator.end_training()


if __name__ == '__main__':
    main()
