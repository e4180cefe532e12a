"""Folding, where several kernels are generated at each position: operations, error and accuracy at equal parameters.

    python tests/benchmarks/folding.py --data-dir CIFAR10 --weights-56 FILE

ResNet-20 and ResNet-56: each predictor has 20 % of the network's parameters, the same steps and seed. The layers of
these networks have up to 4,096 kernels, so a limit of 1,024 positions folds the larger ones by 4, and one of 256 all of
them, by 4 or 16. ResNet-18: reconstruction alone, at 15 %; its layers are filled with real kernels, those of ResNet-56
in all orientations and both signs. An optimization step takes 4,096 positions, and so the same time, however many
kernels there are at each. Takes 20, 50 and 25 minutes on one CPU thread; --networks chooses.
"""
import argparse

import timm
import torch
from common import (
    cifar_original,
    environment,
    generated_error,
    generation_flops,
    read_results,
    top1,
    validation_batches,
    write_results,
)
from torch import Tensor, nn

import timm_sbs

MAX_POSITIONS = {'resnet20': (0, 1024, 256), 'resnet56': (0, 1024, 256), 'resnet18': (0, 4096, 1024)}
STEPS, DISTILLATION_STEPS, LARGE_STEPS, SEED = 4000, 600, 1200, 0


def real_kernels(model: nn.Module) -> Tensor:
    """A network's 3x3 kernels in 8 orientations and both signs, shuffled: [N, 3, 3]."""
    kernels = torch.cat([p.detach().flatten(0, 1) for p in model.parameters() if p.dim() == 4 and p.shape[-1] == 3])
    turned = [torch.rot90(k, turns, (1, 2)) for k in (kernels, kernels.transpose(1, 2)) for turns in range(4)]
    every = torch.cat([sign * k for k in turned for sign in (1, -1)])
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(SEED))]


def with_real_kernels(name: str, kernels: Tensor) -> nn.Module:
    """A timm model whose convolutions hold these kernels, one layer after the other."""
    model = timm.create_model(name).requires_grad_(False)
    values, used = kernels.flatten(), 0
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.copy_(values[used:used + parameter.numel()].view(parameter.shape))
            used += parameter.numel()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True)
    parser.add_argument('--networks', nargs='+', default=[*MAX_POSITIONS], choices=[*MAX_POSITIONS])
    args = parser.parse_args()
    networks = read_results('folding').get('networks', {})
    for network in args.networks:
        large = network == 'resnet18'
        original = (with_real_kernels(network, real_kernels(cifar_original('resnet56', args.weights_56))) if large
                    else cifar_original(network, args.weights_56))
        fields = dict(pct=15, reconstruction_steps=LARGE_STEPS) if large else dict(
            config='cifar10', pct=20, reconstruction_steps=STEPS, second_order_steps=0,
            distillation_steps=DISTILLATION_STEPS, images=f'{args.data_dir}/train')
        networks[network] = []
        for limit in MAX_POSITIONS[network]:
            artifact = timm_sbs.fit(original, max_positions=limit, seed=SEED, **fields)
            row = {'max_positions': limit, 'gflop': round(generation_flops(artifact) / 1e9, 2),
                   'error': round(generated_error(artifact, original), 4)}
            if not large:
                row['top1'] = top1(artifact.create_model(), validation_batches(args.data_dir, original))
            networks[network].append(row)
            print(network, row, flush=True)
        write_results('folding', {
            'command': 'python tests/benchmarks/folding.py --data-dir CIFAR10 --weights-56 FILE', 'seed': SEED,
            'reconstruction_steps': STEPS, 'distillation_steps': DISTILLATION_STEPS, 'large_steps': LARGE_STEPS,
            'networks': networks, **environment()})


if __name__ == '__main__':
    main()
