"""NeRN's training loop in its own terms, beside ours: time until the weights are reconstructed to a given error.

    python tests/benchmarks/nern_loop.py --weights-56 resnet56_cifar10.safetensors

NeRN (arXiv 2212.13554, and the example configuration in its repository): five linear layers with ReLU, positional
encoding of (layer, filter, channel) with base 0.76 and 40 levels, cross-filter order, Ranger (RAdam with Lookahead) at
5e-3 with betas 0.5 and 0.999 and weight decay 1e-3, cosine schedule over 350 epochs of 196 batches, loss the root of
the mean squared error. In each step all kernels are predicted, 4,096 of them with gradients: drawn uniformly in four
steps of five, in proportion to their norm in the fifth. The loss of all weights is taken back to the weights, and from
there to the predictor ('two-stage backward'). Its forward passes of images, which it makes in each step for the other
losses, are left out here: that favours it. Both predictors have 20 % of the network's parameters, and both networks the
same path search.

Ours runs as few steps as reach the error, ordering included in its time. NeRN's loop, without its ordering, is given
--times as long, unless it reaches the error before. Takes about 8 minutes on 2 CPU cores.
"""
import argparse
import itertools
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from common import NERN, cifar_original, environment, generated_error, timed, write_results
from timm.optim import create_optimizer_v2
from torch import Tensor

import timm_sbs
from timm_sbs.predictor.generator import Generator, relative_error
from timm_sbs.training.phases.reconstruction import group_targets

BATCH = 4096
NERN_STEPS = 350 * 196
OUR_STEPS = (50, 100, 150, 200, 300, 400, 600)
LOOK = 25  # steps of NeRN's between looks at the clock and the error


class NernLoop:
    """One step after another of the published loop, on a predictor of ours."""

    def __init__(self, generator: Generator, targets: Tensor, seed: int) -> None:
        random.seed(seed)
        torch.manual_seed(seed)
        group, = generator.groups
        self.predictor, self.targets, self.token_size = generator.predictor.train(), targets, group.token_size
        self.features = generator.features(group)
        self.positions = [slice(a, b) for a, b in itertools.pairwise(itertools.accumulate(
            (spec.num_kernels for spec in group.specs), initial=0))]
        self.optimizer = create_optimizer_v2(
            list(self.predictor.parameters()), 'lookahead_radam', lr=5e-3, betas=(0.5, 0.999), weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, NERN_STEPS, eta_min=1e-6)

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Kernels with and without gradients of a step."""
        count = len(self.targets)
        if random.random() < 0.8:
            order = torch.randperm(count)
            return order[:BATCH], order[BATCH:]
        norms = torch.cat([self.targets[part].norm(dim=1) for part in self.positions])
        drawn = torch.distributions.Categorical(norms).sample([BATCH])
        others = torch.ones(count, dtype=torch.bool)
        others[drawn] = False
        return drawn, others.nonzero()[:, 0]

    def step(self) -> None:
        drawn, others = self._drawn()
        kernels = torch.zeros(len(self.targets), self.token_size)
        with_gradients = self.predictor(self.features[drawn], self.token_size)
        kernels[drawn] = with_gradients
        with torch.no_grad():
            kernels[others] = torch.cat([
                self.predictor(self.features[part], self.token_size) for part in others.split(BATCH)])
        layers = [kernels[part] for part in self.positions]
        leaves = [layer.detach().requires_grad_() for layer in layers]  # the reconstructed network's parameters
        squares = sum(((leaf - self.targets[part]) ** 2).sum() for leaf, part in zip(leaves, self.positions))
        loss = torch.sqrt(squares / self.targets.numel())
        self.optimizer.zero_grad()
        loss.backward()
        torch.autograd.backward(layers, [leaf.grad for leaf in leaves])
        self.optimizer.step()
        self.schedule.step()


def nern(original: torch.nn.Module, pct: float, error: float, limit: float, seed: int) -> dict[str, Any]:
    """NeRN's loop until it reaches the error or its time is over. Looks at the error take no part in its time."""
    untrained = timm_sbs.fit(  # one optimization step of next to nothing
        original, pct=pct, seed=seed, reconstruction_steps=1, reconstruction_lr=1e-9, **NERN)
    generator = untrained.generator.requires_grad_(True)
    weights = original.state_dict()
    targets, = group_targets(generator, weights)
    loop = NernLoop(generator, targets, seed)
    steps, seconds, reached = 0, 0., math.inf
    while seconds < limit and reached > error:
        started = time.perf_counter()
        for _ in range(LOOK):
            loop.step()
        seconds += time.perf_counter() - started
        steps += LOOK
        reached = relative_error(generator(), weights)
    return {'steps': steps, 'seconds': seconds, 'error': reached}


def ours(original: torch.nn.Module, pct: float, error: float, seed: int) -> dict[str, Any]:
    """The shortest run, of those tried, that reaches the error."""
    for steps in OUR_STEPS:
        artifact, seconds = timed(
            lambda steps=steps: timm_sbs.fit(original, pct=pct, reconstruction_steps=steps, seed=seed))
        reached = generated_error(artifact, original)
        if reached <= error:
            break
    return {'steps': steps, 'seconds': seconds, 'error': reached}


def compare(name: str, weights: Path | None, args: argparse.Namespace) -> dict[str, Any]:
    original = cifar_original(name, weights)
    timm_sbs.fit(original, pct=args.pct, reconstruction_steps=1)  # compiles the path search
    mine = ours(original, args.pct, args.error, args.seed)
    theirs = nern(original, args.pct, args.error, args.times * mine['seconds'], args.seed)
    times = theirs['seconds'] / mine['seconds']
    print(f"{name}: error {mine['error']:.3f} after {mine['seconds']:.1f} s ({mine['steps']} steps) of ours, "
          f"{theirs['error']:.3f} after {theirs['seconds']:.0f} s ({theirs['steps']} steps) of NeRN's loop", flush=True)
    return {'ours': mine, 'nern': theirs, 'times_as_long': times, 'nern_reached': theirs['error'] <= args.error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights-56', type=Path, required=True, help='published weights of ResNet-56')
    parser.add_argument('--pct', type=float, default=20.)
    parser.add_argument('--error', type=float, default=0.3)
    parser.add_argument('--times', type=float, default=30.)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_flush_denormal(True)  # NeRN's predictor, stuck at the mean, would otherwise slow down several times
    results = {
        'command': 'python tests/benchmarks/nern_loop.py --weights-56 FILE', 'pct': args.pct, 'error': args.error,
        'seed': args.seed,
        'resnet20': compare('resnet20', None, args),
        'resnet56': compare('resnet56', args.weights_56, args),
        **environment(),
    }
    write_results('nern_loop', results)


if __name__ == '__main__':
    main()
