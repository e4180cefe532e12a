"""Updates for a new camera, for ten classes and for rounds of federated learning, beside other ways to send a network.

    python tests/benchmarks/updates.py camera --data FOLDER --output FOLDER [--nncodec PYTHON]
    python tests/benchmarks/updates.py federated --data FOLDER --output FOLDER
    python tests/benchmarks/updates.py ten_classes --data FOLDER --output FOLDER

camera: sbs_resnet20_cifar10_50kb, with CIFAR-10 as --data (train/CLASS and validation/CLASS). The camera inverts
images, has 0.6 of their contrast, and adds noise of 0.03. 8,000 training images; everything in six epochs, or what is
no convolution in twelve. Updates, the whole network rounded anew, xz of the difference of both networks in float16, and
NNCodec of this difference (with the interpreter of an environment that has it, see nncodec_worker.py). Trained fits
have 1,000 steps. About an hour on one CPU thread.

federated: the same images, divided among four clients, each with those of five of the ten classes. In each of ten
rounds every client trains the network it was sent for one epoch, and sends an update of the base; the server sends an
update of the base with the mean of what it got. No update is trained. Beside it, the same with float32 both ways. 20
minutes.

ten_classes: sbs_resnet18_2mb with a new classifier, and as --data the ROOT of imagenet.py: every fourth of the
photographs in unlabelled/imagenette, with the labels that EfficientNet-Lite0 gives them; tested on the 490 of
validation10. Trained fits have 200 steps. An hour.
"""
import argparse
import copy
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from common import (
    Batches,
    artifact_sizes,
    coded_by_nncodec,
    environment,
    read_results,
    replaced,
    resumption,
    top1,
    validation_batches,
    value_bytes,
    write_results,
)
from imagenet_photographs import load_lite
from originals import images_of
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

import timm_sbs
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.augmentation import ImageTransform, data_config_of, validation_transform
from timm_sbs.training.plan import settled_precision

NAME, CAMERA_BASE, IMAGES, QPS = 'updates', 'sbs_resnet20_cifar10_50kb', 8000, (-20, -16, -12, -8)
CLIENTS, ROUNDS, CLASSES = 4, 10, 5
FEDERATED = dict(bytes='14k', statistics_images=500, holdout_images=200, distillation_steps=0)


@dataclass(frozen=True)
class Task:
    """What a network is tuned for, and how: rates were chosen on other training images.

    Attributes:
        base: Name of what the receiver has.
        images: For training, uint8 [N, 3, H, W].
        folder: With these images, and maybe more.
        test: Normalised images and their classes.
        settings: Of timm_sbs.fit.
        small: Bytes of an update that has no convolutions.
        full: Bytes of an update of everything.
        wholes: Bytes of files without a base.
    """
    base: str
    images: Tensor
    labels: Tensor
    folder: Path
    test: Batches
    settings: Mapping[str, Any]
    small: str
    full: str
    wholes: tuple[str, ...] = ()
    batch: int = 128
    lr: float = 2e-3
    part_lr: float = 3e-2
    epochs: int = 6
    part_epochs: int = 12

    def create(self) -> nn.Module:
        """The base's network, with a classifier of this task."""
        return timm.create_model(self.base, pretrained=True, num_classes=int(self.labels.max()) + 1)

    def tuned(
            self, model: nn.Module, seed: int = 0, convolutions: bool = True, epochs: int | None = None,
            share: Tensor | None = None,
    ) -> nn.Module:
        """The network, trained on the images, or on a share of them."""
        images, labels = (self.images, self.labels) if share is None else (self.images[share], self.labels[share])
        accelerator = make_accelerator(settled_precision('auto'))
        model.train()
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(convolutions or not isinstance(module, nn.Conv2d))
        optimizer = create_optimizer_v2(
            model, opt='adamw', lr=self.lr if convolutions else self.part_lr, weight_decay=0.)
        epochs, batches = epochs or (self.epochs if convolutions else self.part_epochs), len(images) // self.batch
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
        transform = ImageTransform(data_config_of(model.pretrained_cfg), shift=images.shape[-1] // 8)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images), generator=generator).split(self.batch)[:batches]:
                with accelerator.autocast():
                    output = model(transform.batch(images[chosen], generator))
                loss = F.cross_entropy(output.float(), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return model.requires_grad_(False).eval()

    def top1(self, model: nn.Module) -> float:
        return top1(model, self.test)


def of_the_camera(images: Tensor, seed: int) -> Tensor:
    """Images [N, 3, H, W], uint8, as the new camera takes them."""
    noise = 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return ((0.6 * (0.5 - images / 255) + 0.5 + noise) * 255).round().clamp(0, 255).byte()


def camera(data: Path, output: Path) -> Task:
    images, labels = images_of(data, 'train')
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:IMAGES]
    images, labels = of_the_camera(images[chosen], 1), labels[chosen]
    folder = output / 'camera'
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        to_pil_image(image).save(folder / f'{index:05}.png')
    test, classes = images_of(data, 'validation')
    transform = validation_transform(timm.create_model(CAMERA_BASE).pretrained_cfg)
    return Task(
        CAMERA_BASE, images, labels, folder,
        [(transform.batch(part), given) for part, given in zip(of_the_camera(test, 2).split(500), classes.split(500))],
        dict(config='cifar10_rounding', distillation_steps=1000), '5k', '14k', ('50k', '20k'))


@torch.no_grad()
def ten_classes(data: Path, output: Path) -> Task:
    folder, lite = data / 'unlabelled' / 'imagenette', load_lite(0)
    order = (data / 'imagenet_classes.txt').read_text().split()
    used = torch.tensor([order.index(path.name) for path in sorted((data / 'validation10').iterdir())])
    photographs = [Image.open(path).convert('RGB') for path in sorted(folder.glob('*.jpg'))[::4]]
    transform = validation_transform(lite.pretrained_cfg)
    images = torch.stack(list(map(transform.single, photographs)))
    labels = torch.cat([lite(transform.batch(part)) for part in images.split(100)])[:, used].argmax(1)
    base = 'sbs_resnet18_2mb'
    return Task(
        base, images, labels, folder,
        validation_batches(data, timm.create_model(base), 'validation10'),
        dict(config='imagenet_rounding', batch_size=32, distillation_steps=200, mixup=0., scale=(0.3, 1.)),
        '25k', '250k', batch=32, lr=3e-4, part_lr=1e-3, epochs=2, part_epochs=2)


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


def measure_ways(task: Task, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    base = task.create().eval()
    yield {'tuned': 'nothing', 'sent': 'nothing', 'bytes': 0, 'top1': task.top1(base)}
    for name, convolutions in (('all but convolutions', False), ('everything', True)):
        model = task.tuned(task.create(), convolutions=convolutions)
        yield {'tuned': name, 'sent': 'float32', 'bytes': value_bytes(model.state_dict()), 'top1': task.top1(model)}
        ways: dict[str, dict[str, Any]] = {
            'update': dict(base=task.base, bytes=task.full),
            'update, not trained': dict(base=task.base, bytes=task.full, distillation_steps=0),
            **{f'whole, {size}B': dict(bytes=size) for size in task.wholes},
        } if convolutions else {'update': dict(base=task.base, bytes=task.small, distillation_steps=0)}
        for sent, fields in ways.items():
            folder = args.output / f'{name} {sent}'.replace(' ', '_')
            timm_sbs.fit(model, images=task.folder, output=folder, checkpointing_steps=200, workers=0,
                         resume=resumption(folder), **{**task.settings, **fields})
            yield {'tuned': name, 'sent': sent, 'bytes': artifact_sizes(folder)['bytes'],
                   'top1': task.top1(timm_sbs.load(folder).create_model())}
        for sent, size, arrived in other_ways(model, base, args.nncodec):
            yield {'tuned': name, 'sent': sent, 'bytes': size, 'top1': task.top1(arrived)}


def mean_of(models: list[nn.Module]) -> nn.Module:
    """A network whose tensors are the means of some networks'."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[0])
    mean.load_state_dict({name: torch.stack([state[name].float() for state in states]).mean(0).to(tensor.dtype)
                          for name, tensor in states[0].items()})
    return mean


def measure_federated(task: Task, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    shares: list[list[Tensor]] = [[] for _ in range(CLIENTS)]
    for label in range(10):  # of which two clients have a half each
        having = [share for client, share in enumerate(shares) if (label - client * 10 // CLIENTS) % 10 < CLASSES]
        for share, part in zip(having, (task.labels == label).nonzero()[:, 0].tensor_split(len(having))):
            share.append(part)

    def sent(model: nn.Module) -> tuple[int, nn.Module]:
        """Bytes, and what arrives."""
        artifact = timm_sbs.fit(model, base=task.base, images=task.folder, workers=0, quiet=True,
                                **{**task.settings, **FEDERATED})
        return artifact.ledger()['total'], artifact.create_model()

    for way in ('float32', 'updates'):
        server = task.create()
        for turn in range(ROUNDS):
            up, arrived = [], []
            for client, share in enumerate(map(torch.cat, shares)):
                model = task.tuned(copy.deepcopy(server), turn * 10 + client, epochs=1, share=share)
                size, model = sent(model) if way == 'updates' else (value_bytes(model.state_dict()), model)
                up.append(size)
                arrived.append(model)
            down, server = up[0], mean_of(arrived)
            if way == 'updates':
                down, server = sent(server)
            yield {'way': way, 'round': turn + 1, 'bytes_up': round(sum(up) / len(up)), 'bytes_down': down,
                   'top1': task.top1(server)}


PARTS = {
    'camera': (camera, measure_ways, ('tuned', 'sent')),
    'federated': (camera, measure_federated, ('way', 'round')),
    'ten_classes': (ten_classes, measure_ways, ('tuned', 'sent'))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=[*PARTS])
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--nncodec', metavar='PYTHON')
    args = parser.parse_args()
    task, measure, keys = PARTS[args.part]
    for row in measure(task(args.data, args.output), args):
        print(row, flush=True)
        rows = replaced(read_results(NAME).get(args.part, []), row, *keys)
        write_results(NAME, {
            **read_results(NAME), 'seed': 0, **environment(), args.part: rows,
            'command': f'python tests/benchmarks/{NAME}.py PART --data FOLDER --output FOLDER'})


if __name__ == '__main__':
    main()
