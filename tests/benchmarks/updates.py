"""Updates of sbs_resnet20_cifar10_50kb for a new camera, beside other ways to send a fine-tuned network.

    python tests/benchmarks/updates.py camera --data-dir CIFAR10 --output FOLDER [--nncodec PYTHON]
    python tests/benchmarks/updates.py federated --data-dir CIFAR10 --output FOLDER

The camera inverts images, has 0.6 of their contrast, and adds noise of 0.03. The base has seen none of its images.

camera: 8,000 training images; everything in six epochs, or what is no convolution in twelve. Updates, the whole network
rounded anew, xz of the difference of both networks in float16, and NNCodec of this difference (with the interpreter of
an environment that has it, see nncodec_worker.py). Trained fits have 600 steps. About 40 minutes on one CPU thread.

federated: the same images, divided among four clients, each with those of five of the ten classes. In each of ten
rounds every client trains the network it was sent for one epoch, and sends an update of the base; the server sends an
update of the base with the mean of what it got. No update is trained. Beside it, the same with float32 both ways. 20
minutes.
"""
import argparse
import copy
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from common import (
    artifact_sizes,
    coded_by_nncodec,
    environment,
    read_results,
    replaced,
    resumption,
    top1,
    value_bytes,
    write_results,
)
from originals import images_of
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

import timm_sbs
from timm_sbs.data.augmentation import training_transform, validation_transform
from timm_sbs.data.settings import ImageSettings

NAME, BASE, IMAGES, STEPS = 'updates', 'sbs_resnet20_cifar10_50kb', 8000, 600
BATCH, LR, PART_LR, EPOCHS, PART_EPOCHS = 128, 2e-3, 3e-2, 6, 12  # rates chosen on other training images
CLIENTS, ROUNDS, CLASSES = 4, 10, 5
SMALL, FULL, QPS = '5k', '14k', (-20, -16, -12, -8)


def of_the_camera(images: Tensor, seed: int) -> Tensor:
    """Images [N, 3, H, W], uint8, as the new camera takes them."""
    noise = 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return ((0.6 * (0.5 - images / 255) + 0.5 + noise) * 255).round().clamp(0, 255).byte()


def tuned(
        model: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int = 0, convolutions: bool = True,
) -> nn.Module:
    """The network, trained on images of the camera."""
    model.train()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(convolutions or not isinstance(module, nn.Conv2d))
    optimizer = create_optimizer_v2(model, opt='adamw', lr=LR if convolutions else PART_LR, weight_decay=0.)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    transform = training_transform(ImageSettings(), model.pretrained_cfg)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH)[:batches]:
            loss = F.cross_entropy(model(transform.batch(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.requires_grad_(False).eval()


class Camera:
    """Images of the new camera: some for training, in a folder too, and the test images."""

    def __init__(self, data_dir: Path, output: Path) -> None:
        images, labels = images_of(data_dir, 'train')
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:IMAGES]
        self.images, self.labels = of_the_camera(images[chosen], 1), labels[chosen]
        images, labels = images_of(data_dir, 'validation')
        transform = validation_transform(timm.create_model(BASE).pretrained_cfg)
        self.test = [(transform.batch(part), classes) for part, classes in zip(
            of_the_camera(images, 2).split(500), labels.split(500))]
        self.folder = output / 'camera'
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(self.images):
            to_pil_image(image).save(self.folder / f'{index:05}.png')

    def top1(self, model: nn.Module) -> float:
        return top1(model, self.test)


def difference(model: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    old = base.state_dict()
    return {name: tensor - old[name] for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def added(base: nn.Module, change: dict[str, Tensor]) -> nn.Module:
    model = copy.deepcopy(base)
    model.load_state_dict({name: tensor + change[name] if name in change else tensor
                           for name, tensor in base.state_dict().items()})
    return model


def other_ways(model: nn.Module, base: nn.Module, nncodec: str | None) -> Iterator[tuple[str, int, nn.Module]]:
    """Name, bytes and what arrives of other codes of the difference."""
    change = difference(model, base)
    half = {name: new.half() - base.state_dict()[name].half() for name, new in model.state_dict().items()
            if name in change}
    sent = b''.join(tensor.numpy().tobytes() for tensor in half.values())
    arrived = {name: tensor.float() for name, tensor in half.items()}
    yield 'xz of the difference in float16', len(lzma.compress(sent, preset=9)), added(base, arrived)
    if nncodec:
        for qp, size, state in coded_by_nncodec(nncodec, change, QPS):
            yield f'NNCodec of the difference, qp {qp}', size, added(base, state)


def measure_camera(camera: Camera, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    base = timm.create_model(BASE, pretrained=True).eval()
    yield {'tuned': 'nothing', 'sent': 'nothing', 'bytes': 0, 'top1': camera.top1(base)}
    for name, convolutions in (('all but convolutions', False), ('everything', True)):
        epochs = EPOCHS if convolutions else PART_EPOCHS
        model = tuned(timm.create_model(BASE, pretrained=True), camera.images, camera.labels, epochs, 0, convolutions)
        yield {'tuned': name, 'sent': 'float32', 'bytes': value_bytes(model.state_dict()), 'top1': camera.top1(model)}
        ways: dict[str, dict[str, Any]] = {
            'update': dict(base=BASE, bytes=FULL),
            'update, not trained': dict(base=BASE, bytes=FULL, distillation_steps=0),
            'whole': dict(bytes='50k'), 'whole, as small': dict(bytes=FULL),
        } if convolutions else {'update': dict(base=BASE, bytes=SMALL, distillation_steps=0)}
        for sent, fields in ways.items():
            folder = args.output / f'{name} {sent}'.replace(' ', '_')
            settings: dict[str, Any] = dict(config='cifar10_rounding', distillation_steps=STEPS, workers=0)
            timm_sbs.fit(model, images=camera.folder, output=folder, checkpointing_steps=200,
                         resume=resumption(folder), **settings | fields)
            yield {'tuned': name, 'sent': sent, 'bytes': artifact_sizes(folder)['bytes'],
                   'top1': camera.top1(timm_sbs.load(folder).create_model())}
        for sent, size, arrived in other_ways(model, base, args.nncodec):
            yield {'tuned': name, 'sent': sent, 'bytes': size, 'top1': camera.top1(arrived)}


def mean_of(models: list[nn.Module]) -> nn.Module:
    """A network whose tensors are the means of some networks'."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[0])
    mean.load_state_dict({name: torch.stack([state[name].float() for state in states]).mean(0).to(tensor.dtype)
                          for name, tensor in states[0].items()})
    return mean


def measure_federated(camera: Camera, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    shares: list[list[Tensor]] = [[] for _ in range(CLIENTS)]
    for label in range(10):  # of which two clients have a half each
        having = [share for client, share in enumerate(shares) if (label - client * 10 // CLIENTS) % 10 < CLASSES]
        for share, part in zip(having, (camera.labels == label).nonzero()[:, 0].tensor_split(len(having))):
            share.append(part)

    def sent(model: nn.Module) -> tuple[int, nn.Module]:
        """Bytes, and what arrives."""
        artifact = timm_sbs.fit(model, base=BASE, bytes=FULL, images=camera.folder, config='cifar10_rounding',
                                distillation_steps=0, workers=0, quiet=True, holdout_images=500)
        return artifact.ledger()['total'], artifact.create_model()

    for way in ('float32', 'updates'):
        server = timm.create_model(BASE, pretrained=True)
        for turn in range(ROUNDS):
            up, arrived = [], []
            for client, share in enumerate(map(torch.cat, shares)):
                model = tuned(copy.deepcopy(server), camera.images[share], camera.labels[share], 1, turn * 10 + client)
                size, model = sent(model) if way == 'updates' else (value_bytes(model.state_dict()), model)
                up.append(size)
                arrived.append(model)
            down, server = up[0], mean_of(arrived)
            if way == 'updates':
                down, server = sent(server)
            yield {'way': way, 'round': turn + 1, 'bytes_up': round(sum(up) / len(up)), 'bytes_down': down,
                   'top1': camera.top1(server)}


PARTS = {'camera': (measure_camera, ('tuned', 'sent')), 'federated': (measure_federated, ('way', 'round'))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=[*PARTS])
    parser.add_argument('--data-dir', type=Path, required=True)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--nncodec', metavar='PYTHON')
    args = parser.parse_args()
    measure, keys = PARTS[args.part]
    for row in measure(Camera(args.data_dir, args.output), args):
        print(row, flush=True)
        rows = replaced(read_results(NAME).get(args.part, []), row, *keys)
        write_results(NAME, {
            **read_results(NAME), 'seed': 0, **environment(), args.part: rows,
            'command': f'python tests/benchmarks/{NAME}.py PART --data-dir CIFAR10 --output FOLDER'})


if __name__ == '__main__':
    main()
