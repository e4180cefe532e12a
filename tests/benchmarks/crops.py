"""Crops of photographs that went through a frozen part of a network and through a teacher, kept in files: for
free_resnet18.py."""
import copy
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

__all__ = ['HELD_OUT', 'keep_crops', 'photographs']

# Photographs of each folder below the root that are held out, and crops of it in a chunk. Those of all classes are few,
# and show what is asked for.
HELD_OUT = {'train': 150, 'unlabelled/imagen': 100, 'unlabelled/caltech': 200, 'unlabelled/imagenette': 50}
CROPS = {'train': 160, 'unlabelled/imagen': 160, 'unlabelled/caltech': 100, 'unlabelled/imagenette': 40}
MORE = 564  # crops of a chunk, of other photographs
BATCH = 64
TRAINING = v2.Compose([v2.RandomResizedCrop(224, scale=(0.25, 1), antialias=True), v2.RandomHorizontalFlip()])
HOLDING = v2.Compose([v2.Resize(232, antialias=True), v2.CenterCrop(224)])


class _Crops(Dataset[Tensor]):
    """Crops [3, 224, 224] of photographs, from 0 to 1."""

    def __init__(self, paths: list[Path], transform: v2.Compose) -> None:
        self._paths = paths
        self._transform = v2.Compose([transform, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as photograph:
            found: Tensor = self._transform(photograph.convert('RGB'))
            return found


class _Frozen(nn.Module):
    """Maps [B, C, H, W] and the teacher's logits [B, classes] of crops, float16."""

    def __init__(self, stem: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.stem, self.teacher = _folded(stem), _folded(teacher)
        self.register_buffer('_mean', torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1))
        self.register_buffer('_std', torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    @torch.autocast('cpu', torch.bfloat16)
    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        maps = self.stem(((crops - self._mean) / self._std).contiguous(memory_format=torch.channels_last))
        scaled = ((crops - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        return {'maps': maps.half().contiguous(), 'logits': self.teacher(scaled).half()}


def _folded(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorms are folded into the convolutions before them: a quarter faster."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for (name, conv), (after, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, getattr(norm, 'act', nn.Identity()))  # timm's has its activation
    return network


def photographs(root: Path, more: Path | None = None) -> tuple[dict[str, list[Path]], list[Path]]:
    """Paths of each source, and those that are held out, drawn from the root's."""
    generator = torch.Generator().manual_seed(0)
    kept, held = {}, []
    for source, count in HELD_OUT.items():
        paths = _files(root / source)
        paths = [paths[index] for index in torch.randperm(len(paths), generator=generator)]
        kept[source], held = paths[count:], held + paths[:count]
    if more:
        kept.update((folder.name, _files(folder)) for folder in sorted(more.iterdir()))
    return kept, held


def _crops(kept: Mapping[str, list[Path]]) -> dict[str, int]:
    """Crops of each source in a chunk. Of other photographs, the root of their number: small sets are special ones."""
    roots = {source: math.sqrt(len(paths)) for source, paths in kept.items() if source not in CROPS}
    return CROPS | {source: round(MORE * root / sum(roots.values())) for source, root in roots.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if path.suffix.lower() in ('.jpg', '.jpeg', '.png'))


def _endless(paths: list[Path]) -> Iterator[Path]:
    """All in an order that is drawn, again and again."""
    for seed in itertools.count():
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))
        yield from (paths[index] for index in order)


def keep_crops(
        kept: Mapping[str, list[Path]],
        held: list[Path],
        folder: Path,
        chunks: int,
        stem: nn.Module,
        teacher: nn.Module,
        workers: int = 1,
) -> None:
    """Write FOLDER/chunk_000.safetensors, of the held-out photographs, and one chunk of crops after the other, but for
    those that are there. Half of the crops are mixed, by mixup or cutmix."""
    frozen, mix = _Frozen(stem, teacher), Mixup(mixup_alpha=1., cutmix_alpha=1., prob=0.5, mode='elem')
    endless = {source: _endless(paths) for source, paths in kept.items()}
    counts = _crops(kept)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(chunks + 1):
        path, generator = folder / f'chunk_{number:03}.safetensors', torch.Generator().manual_seed(number)
        chosen = held
        if number:
            chosen = [next(endless[source]) for source, count in counts.items() for _ in range(count)]
            even = len(chosen) // 2 * 2  # Mixup takes pairs
            chosen = [chosen[index] for index in torch.randperm(len(chosen), generator=generator)[:even]]
        if path.exists():
            continue
        np.random.seed(number)  # Mixup draws by numpy
        loader = DataLoader(_Crops(chosen, TRAINING if number else HOLDING), BATCH, generator=generator,
                            num_workers=workers)
        started, found = time.monotonic(), []
        for crops in loader:
            if number:
                crops, _ = mix(crops, torch.zeros(len(crops), dtype=torch.long))
            found.append(frozen(crops))
        save_file({key: torch.cat([part[key] for part in found]) for key in found[0]}, path.with_suffix('.part'))
        path.with_suffix('.part').rename(path)
        print(f'{path.name}: {len(chosen):,} crops in {time.monotonic() - started:.0f} s', flush=True)
