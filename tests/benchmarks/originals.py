"""Train the originals that other benchmarks make small: ResNets for CIFAR-100, and families that are no ResNets.

    python tests/benchmarks/originals.py --network NAME --data-dir FOLDER --output FOLDER [--epochs N]

--data-dir has train/CLASS and validation/CLASS: of CIFAR-100 for resnet20 and resnet56, else of CIFAR-10.
Architectures, optimizers, schedules and mixing of images are timm's; images of 32 pixels are shifted and mirrored. A
run that was stopped goes on from its last epoch. Writes NAME.safetensors, in float16, and the accuracy on validation
images, measured once at the end, to results/originals.json. tests/benchmarks/weights has what was trained. On one CPU
thread an epoch takes half a minute (densenet) to ten (resnet56).
"""
import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from common import environment, read_results, replaced, top1, validation_batches, write_results
from safetensors.torch import save_file
from timm.data import Mixup, create_dataset
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.augmentation import training_transform, validation_transform
from timm_sbs.data.settings import ImageSettings
from timm_sbs.training.plan import settled_precision

__all__ = ['ORIGINALS', 'Original', 'load_original']

NAME, BATCH, SMOOTHING = 'originals', 128, 0.1


@dataclass(frozen=True)
class Original:
    """How a network is built and trained."""
    architecture: str
    classes: int = 10
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=lambda: dict(opt='adamw', lr=2e-3, weight_decay=0.05))
    mixing: float = 0.2  # of mixup, which a quarter of the batches has; another has cutmix
    while_training: Mapping[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model

    def create(self, **kwargs: Any) -> nn.Module:
        return timm.create_model(self.architecture, num_classes=self.classes, **self.kwargs, **kwargs)

    @property
    def data_set(self) -> str:
        return f'CIFAR-{self.classes}'


RESNET: Mapping[str, Any] = dict(
    classes=100, optimizer=dict(opt='sgd', lr=0.1, weight_decay=5e-4, momentum=0.9), mixing=0.)
ORIGINALS: Mapping[str, Original] = {
    'resnet20': Original('resnet20_cifar100', **RESNET),
    'resnet56': Original('resnet56_cifar100', **RESNET),
    'convnext': Original('convnext_atto', kwargs=dict(patch_size=2)),
    'vit': Original(
        'vit_tiny_patch16_224', kwargs=dict(img_size=32, patch_size=4, embed_dim=128, depth=6, num_heads=4),
        while_training=dict(patch_drop_rate=0.5)),  # half the time for an epoch
    'mobilenet': Original('mobilenetv2_050', kwargs=dict(output_stride=16)),
    'densenet': Original('densenet121', kwargs=dict(growth_rate=12, block_config=(6, 6, 6, 6))),
}


def described(model: nn.Module) -> nn.Module:
    """A network for 32 pixels whose description says so: timm's is that of its weights for ImageNet."""
    cfg = {**model.pretrained_cfg, 'input_size': (3, 32, 32), 'crop_pct': 1.0, 'interpolation': 'bilinear'}
    model.pretrained_cfg = cfg
    return model


def load_original(name: str, weights: str | Path) -> nn.Module:
    """A network that this script has trained."""
    model = described(ORIGINALS[name].create()).requires_grad_(False).eval()
    timm.models.load_checkpoint(model, weights)
    return model


def images_of(data_dir: Path, split: str) -> tuple[Tensor, Tensor]:
    """All images of a split, uint8 [N, 3, 32, 32], and their classes."""
    dataset = create_dataset('', root=str(data_dir), split=split)
    dataset.transform = validation_transform({'input_size': (3, 32, 32), 'crop_pct': 1.}).single
    loader = torch.utils.data.DataLoader(dataset, batch_size=500)
    images, labels = zip(*loader)
    return torch.cat(images), torch.cat(labels)


def train(original: Original, data_dir: Path, epochs: int, checkpoint: Path) -> nn.Module:
    """A trained network; the checkpoint is written after each epoch, and read if it is there."""
    accelerator = make_accelerator(settled_precision('auto'))
    torch.manual_seed(0)
    model = described(original.create(**original.while_training))
    model.to(accelerator.device, memory_format=torch.channels_last)
    images, labels = images_of(data_dir, 'train')
    transform = training_transform(ImageSettings(), model.pretrained_cfg)
    optimizer = create_optimizer_v2(model, **original.optimizer)
    scheduler = CosineLRScheduler(optimizer, t_initial=epochs, warmup_t=max(1, epochs // 20), warmup_lr_init=1e-4,
                                  warmup_prefix=True)
    mixing = Mixup(mixup_alpha=original.mixing, cutmix_alpha=1., prob=0.5, label_smoothing=SMOOTHING,
                   num_classes=original.classes) if original.mixing else None
    loss_of = SoftTargetCrossEntropy() if mixing else nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved['model'])
        optimizer.load_state_dict(saved['optimizer'])
        start = saved['epochs']
    steps = len(images) // BATCH
    for epoch in range(start, epochs):
        model.train()
        generator, began, total = torch.Generator().manual_seed(epoch), time.monotonic(), 0.
        torch.manual_seed(epoch)  # of drop path
        np.random.seed(epoch)  # of timm's Mixup
        order = torch.randperm(len(images), generator=generator)
        for step in range(steps):
            chosen = order[step * BATCH:(step + 1) * BATCH]
            scheduler.step(epoch + step / steps)  # type: ignore[arg-type]  # timm's schedules take parts of epochs
            batch = transform.batch(images[chosen], generator)
            batch = batch.to(accelerator.device, memory_format=torch.channels_last)
            targets = labels[chosen].to(accelerator.device)
            if mixing:
                batch, targets = mixing(batch, targets)
            with accelerator.autocast():
                output = model(batch)
            loss = loss_of(output.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.)
            optimizer.step()
            total += float(loss.detach())
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_suffix('.partial')
        torch.save({'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'epochs': epoch + 1}, partial)
        partial.replace(checkpoint)
        print(f'epoch {epoch + 1} of {epochs}: loss {total / steps:.3f}, {time.monotonic() - began:.0f} s', flush=True)
    return model.eval().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=[*ORIGINALS], required=True)
    parser.add_argument('--data-dir', type=Path, required=True)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--epochs', type=int, default=30)
    args = parser.parse_args()
    original, weights = ORIGINALS[args.network], args.output / f'{args.network}.safetensors'
    model = train(original, args.data_dir, args.epochs, weights.with_suffix('.pt'))
    save_file({name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
               for name, tensor in model.state_dict().items()}, weights)
    model = load_original(args.network, weights)
    row = {'network': args.network, 'data_set': original.data_set, 'epochs': args.epochs,
           'parameters': sum(parameter.numel() for parameter in model.parameters()),
           'top1': top1(model, validation_batches(args.data_dir, model)), **environment()}
    print(row)
    write_results(NAME, {
        'command': f'python tests/benchmarks/{NAME}.py --network NAME --data-dir FOLDER --output FOLDER --epochs N',
        'seed': 0, **environment(), 'rows': replaced(read_results(NAME).get('rows', []), row, 'network')})


if __name__ == '__main__':
    main()
