"""What is measured on ImageNet photographs, for imagenet_resnet18.py and imagenet_variants.py."""
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader

__all__ = ['Figures', 'Photographs', 'with_state', 'recipe_flags']

SETS = ('validation', 'validation10')
Figures = dict[str, dict[str, float]]


class Photographs:
    """Both sets, decoded once, with what the original says of them."""

    def __init__(self, root: Path, original: nn.Module) -> None:
        self._batches: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name in SETS:
            data = DataSettings(
                str(root), class_map=str(root / 'imagenet_classes.txt'), val_split=name, batch_size=50, workers=0)
            self._batches[name] = list(eval_loader(data, original.pretrained_cfg))
        top = self._top5(original)
        self._expected = {name: found[:, 0] for name, found in top.items()}
        self.original = self._figures(top)

    def batches(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Images and class indices of a set."""
        return self._batches[name]

    @torch.inference_mode()
    def _top5(self, model: nn.Module, sets: Sequence[str] = SETS) -> dict[str, Tensor]:
        model = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)  # the original stays trainable
        return {
            name: torch.cat([model(x.to(memory_format=torch.channels_last)).topk(5, dim=1).indices for x, _ in batches])
            for name, batches in self._batches.items() if name in sets}

    def measure(self, model: nn.Module, sets: Sequence[str] = SETS) -> Figures:
        """Per cent of right, nearly right, and unchanged predictions, in float32."""
        return self._figures(self._top5(model, sets))

    def _figures(self, found: Mapping[str, Tensor]) -> Figures:
        figures = {}
        for name, top in found.items():
            labels = torch.cat([y for _, y in self._batches[name]])
            figures[name] = {
                key: round(100 * float(hits.float().mean()), 2) for key, hits in (
                    ('top1', top[:, 0] == labels), ('top5', (top == labels[:, None]).any(1)),
                    ('agreement', top[:, 0] == self._expected[name]))}
        return figures


def with_state(original: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    model = copy.deepcopy(original)
    model.load_state_dict(dict(state), strict=False)
    return model


def recipe_flags(root: Path) -> list[str]:
    """Flags of the trainer for the recipe and all photographs of ROOT."""
    return [
        '--recipe', 'imagenet', '--data-dir', str(root), '--class-map', str(root / 'imagenet_classes.txt'),
        '--unlabelled-dir', *(str(folder) for folder in sorted((root / 'unlabelled').iterdir())), '--workers', '0']
