"""The spectral bias, measured: what frequencies a predictor learns when, and which its tangent kernel has room for.

    python tests/benchmarks/spectrum.py

1. Bands. Kernels of ResNet-20's layers of 4,096 kernels stand along their paths; a network's error is their difference
   from the original, seen as a signal along the path and split into octaves of its Fourier transform. Squared error
   over squared norm in each band, after runs of so many optimization steps, for UOS and UOS-RFF and for NeRN's
   configuration (cross-filter order), both with 20 % of the parameters, measured along the same paths,
   the best of three seeds.
2. Tangent kernels (NTK) of small networks of a coordinate t, before UOS-RFF (the network reads t) and after (it reads
   random Fourier features of t at bandwidth s): eigenvalues of the empirical kernel on 256 positions, over their sum,
   beside those of the kernel of infinite width. Theory: the kernel of a ReLU network of one coordinate decays with
   frequency k as k^-2 (arXiv 1905.12173), whatever its depth; random features turn the coordinate into a correlation of
   exp(-(2 pi s dt)^2 / 2) (arXiv 2006.10739), so that frequencies up to about s have nearly equal eigenvalues.

Takes 5 minutes on one CPU thread.
"""
import argparse
import itertools
import math
from typing import Any

import numpy as np
import torch
from common import NERN, cifar_original, environment, generated_error, write_results
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

import timm_sbs
from timm_sbs.predictor.ordering import kernel_at_position
from timm_sbs.predictor.tokens import to_kernels

LENGTH = 4096  # kernels of the layers that are looked at
STEPS = (10, 20, 40, 80, 160, 320, 640, 1280)  # of runs of reconstruction
SEEDS = (0, 1, 2)  # of which the best after the most steps is taken
POSITIONS = 256  # of the tangent kernels
WIDTH, DEPTH = 512, 3  # of their networks: width of hidden layers, linear layers
BANDWIDTHS = (4., 16.)
DRAWS = 4  # of networks, over which kernels are averaged


def band_powers(signal: Tensor) -> Tensor:
    """Power in each octave of frequency, [1, 2), [2, 4), ... cycles over the path, of a signal [N, T]."""
    power = torch.fft.rfft(signal.double(), dim=0).abs().square().sum(1)
    edges = [1 << octave for octave in range(int(math.log2(len(signal))))]
    return torch.stack([power[low:2 * low].sum() for low in edges])


def band_errors(artifact: timm_sbs.Artifact, original: nn.Module, paths: dict[str, Tensor]) -> list[float]:
    """Squared error over squared norm in each band, along the paths of some layers."""
    found, expected = artifact.state_dict(), original.state_dict()
    error = norm = 0
    for spec in artifact.generator.specs:
        if spec.name in paths:
            target = to_kernels(expected[spec.name], spec)[paths[spec.name]]
            error = error + band_powers(to_kernels(found[spec.name], spec)[paths[spec.name]] - target)
            norm = norm + band_powers(target)
    return [round(float(e), 4) for e in error / norm]


def paths_of(artifact: timm_sbs.Artifact) -> dict[str, Tensor]:
    """Kernels of the layers that are looked at, in the order of their paths."""
    generator = artifact.generator
    return {spec.name: torch.from_numpy(kernel_at_position(permutation, spec, generator.config.ordering))
            for spec, permutation in zip(generator.specs, generator.permutations) if spec.num_kernels == LENGTH}


def bands() -> dict[str, Any]:
    original = cifar_original('resnet20')
    result: dict[str, Any] = {'first_frequency_of_band': [1 << octave for octave in range(int(math.log2(LENGTH)))]}
    paths: dict[str, Tensor] = {}
    for name, fields in (('UOS and UOS-RFF', {}), ("NeRN's configuration", NERN)):
        fields = dict(pct=20, mixed_precision='no', **fields)
        longest = [timm_sbs.fit(original, reconstruction_steps=STEPS[-1], seed=seed, **fields) for seed in SEEDS]
        paths = paths or paths_of(longest[0])
        errors = [generated_error(artifact, original) for artifact in longest]
        seed = SEEDS[errors.index(min(errors))]
        result[name] = []
        for steps in STEPS:
            artifact = timm_sbs.fit(original, reconstruction_steps=steps, seed=seed, **fields)
            result[name].append({'step': steps, 'seed': seed, 'errors': band_errors(artifact, original, paths)})
            print(name, result[name][-1], flush=True)
    return result


def network(features: int, seed: int) -> nn.Sequential:
    """ReLU network in the parametrization of the theory: weights of variance 2 over their fan-in, biases of 0.01."""
    torch.manual_seed(seed)
    widths = [features, *(WIDTH,) * (DEPTH - 1), 1]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / fan_in))
        nn.init.normal_(linear.bias, std=0.1)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def empirical_kernel(inputs: Tensor) -> Tensor:
    """Tangent kernel [N, N] of networks that read ``inputs`` [N, F], each layer's part over its fan-in."""
    total = torch.zeros(len(inputs), len(inputs))
    for seed in range(DRAWS):
        net = network(inputs.shape[1], seed)
        parameters = {name: p.detach() for name, p in net.named_parameters()}

        def output(values: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(net, values, (x[None],))[0, 0]

        gradients = vmap(jacrev(output), (None, 0))(parameters, inputs)
        for name, gradient in gradients.items():
            fan_in = net.get_parameter(name.replace('bias', 'weight')).shape[1]
            scale = 2 / fan_in if name.endswith('weight') else 0.01
            flat = gradient.flatten(1)
            total += scale * flat @ flat.T / DRAWS
    return total


def theoretical_kernel(covariance: Tensor) -> Tensor:
    """The same for infinite width, from inner products of the inputs over their number [N, N] (arXiv 1806.07572)."""
    sigma = 2 * covariance + 0.01
    kernel = sigma.clone()
    for _ in range(DEPTH - 1):
        norm = sigma.diagonal().sqrt()
        cosine = (sigma / norm[:, None] / norm).clamp(-1, 1)
        angle = torch.acos(cosine)
        derivative = (math.pi - angle) / math.pi
        sigma = norm[:, None] * norm * (torch.sin(angle) + (math.pi - angle) * cosine) / math.pi + 0.01
        kernel = sigma + kernel * derivative
    return kernel


def spectrum(kernel: Tensor) -> np.ndarray:
    """Share of each frequency, 1, 2, ..., of the kernel's trace without the constant, largest to the slowest first."""
    n = len(kernel)
    t = torch.arange(n, dtype=torch.float64)[:, None] + 0.5
    waves = torch.cos(math.pi * torch.arange(1, n) * t / n) * math.sqrt(2 / n)  # half periods, free at both ends
    powers = (waves * (kernel.double() @ waves)).sum(0)
    return (powers / powers.sum()).numpy()


def tangent_kernels() -> dict[str, Any]:
    t = torch.arange(POSITIONS) / POSITIONS
    inputs = {'before': (2 * t - 1)[:, None]}
    covariances = {'before': inputs['before'] @ inputs['before'].T}
    for s in BANDWIDTHS:
        b = torch.randn(64, generator=torch.Generator().manual_seed(0))
        angles = 2 * math.pi * s * t[:, None] * b
        key = f'after, s = {s:g}'
        inputs[key] = torch.cat([angles.sin(), angles.cos()], dim=1)
        covariances[key] = 0.5 * torch.exp(-0.5 * (2 * math.pi * s * (t[:, None] - t)).square())
    result: dict[str, Any] = {'positions': POSITIONS, 'width': WIDTH, 'linear_layers': DEPTH, 'draws': DRAWS}
    for key in inputs:
        found, expected = spectrum(empirical_kernel(inputs[key])), spectrum(theoretical_kernel(covariances[key]))
        k = np.arange(1, POSITIONS)
        middle = slice(4, 64)
        result[key] = {
            'empirical': [float(f'{v:.3g}') for v in found], 'theory': [float(f'{v:.3g}') for v in expected],
            'slope': {name: round(float(np.polyfit(np.log(k[middle]), np.log(np.abs(v[middle])), 1)[0]), 2)
                      for name, v in (('empirical', found), ('theory', expected))},
            'half_of_the_trace_below': {
                name: float(k[np.searchsorted(np.cumsum(v), 0.5)] / 2)
                for name, v in (('empirical', found), ('theory', expected))},
            'log_correlation': round(float(np.corrcoef(np.log(np.abs(found[:128])), np.log(np.abs(expected[:128])))[
                0, 1]), 3)}
        print(key, {k: v for k, v in result[key].items() if k not in ('empirical', 'theory')}, flush=True)
    return result


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results: dict[str, Any] = {'command': 'python tests/benchmarks/spectrum.py', 'seeds': SEEDS}
    results['tangent_kernels'] = tangent_kernels()
    results['bands'] = bands()
    write_results('spectrum', {**results, **environment()})


if __name__ == '__main__':
    main()
