"""Times reconstruction alone, on as many processes as started it, with one thread each, and prints JSON.

    accelerate launch --multi_gpu --num_processes 2 tests/reconstruction_worker.py WEIGHTS STEPS BATCH
"""
import json
import sys
import time

import torch

from timm_sbs.training.fit import design, start_fit
from timm_sbs.training.orderings import find_orderings
from timm_sbs.training.original import load_original
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.settings import ReconstructionSettings
from timm_sbs.training.sharing import make_accelerator


def main() -> None:
    weights, steps, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    accelerator = make_accelerator()
    original = load_original('resnet20_cifar10', weights)
    config, pretrained_cfg, specs = design(original, pct=20.)
    permutations = find_orderings(original, specs, config.ordering, accelerator)
    fit = start_fit(config, pretrained_cfg, specs, permutations, seed=0)
    accelerator.wait_for_everyone()
    started = time.perf_counter()
    results = reconstruct(
        fit.predictor, fit.plan, original.state_dict(), ReconstructionSettings(steps, batch_size=batch_size), 0,
        accelerator)
    seconds = time.perf_counter() - started
    parameters = torch.cat([p.detach().flatten() for p in fit.predictor.parameters()])
    everyone = accelerator.gather(parameters[None])
    if accelerator.is_main_process:
        print(json.dumps({
            **results, 'processes': accelerator.num_processes, 'seconds': seconds,
            'microseconds_per_kernel': 1e6 * seconds / (steps * batch_size),
            'processes_agree': bool((everyone == everyone[0]).all())}))
    accelerator.end_training()


if __name__ == '__main__':
    main()
