"""The named artifacts, by their names in timm, and the packages that hold them. Imports no torch."""
from dataclasses import dataclass

__all__ = ['Entry', 'ENTRIES', 'NONCOMMERCIAL']

NONCOMMERCIAL = 'timm_sbs_noncommercial'  # a package of its own, which users install knowingly


@dataclass(frozen=True)
class Entry:
    """A named artifact."""
    base: str
    dataset: str  # of the original and of distillation, as the Hub names it
    text: str  # first line of the entry's documentation
    weights: str | None = None  # timm's name of weights that are read as the original's are; None: the default ones
    license: str | None = None  # of the original's weights, and so of the artifact; None: as timm says

    @property
    def package(self) -> str:
        """That holds the weights: one of its own where the licence permits no commercial use."""
        return NONCOMMERCIAL if '-nc-' in (self.license or '') else 'timm_sbs'


def _cifar10(depth: int, text: str) -> Entry:
    return Entry(f'resnet{depth}_cifar10', 'cifar10', f'ResNet-{depth} for CIFAR-10 {text}')


def _resnet18(text: str) -> Entry:
    return Entry('resnet18', 'imagenet-1k', text, weights='resnet18.tv_in1k', license='cc-by-nc-4.0')


# Names say what was fixed: per cent of the parameters, or bytes of the two files.
ENTRIES = {
    'sbs_resnet20_cifar10_20pct': _cifar10(20, 'from a predictor of 20 % of its parameters as float16, in 170 kB.'),
    'sbs_resnet20_cifar10_50kb': _cifar10(20, 'from rounded weights, in 50 kB.'),
    'sbs_resnet20_cifar10_30kb': _cifar10(20, 'from rounded weights, in 30 kB.'),
    'sbs_resnet56_cifar10_20pct': _cifar10(56, 'from a predictor of 20 % of its parameters as float16, in 519 kB.'),
    'sbs_resnet56_cifar10_120kb': _cifar10(56, 'from rounded weights, in 120 kB.'),
    'sbs_resnet56_cifar10_80kb': _cifar10(56, 'from rounded weights, in 80 kB.'),
    'sbs_tf_efficientnet_lite0_1500kb': Entry(
        'tf_efficientnet_lite0', 'imagenet-1k', 'EfficientNet-Lite0 for ImageNet from rounded weights, in 1.5 MB.'),
    'sbs_tf_efficientnet_lite0_30pct': Entry(
        'tf_efficientnet_lite0', 'imagenet-1k',
        'EfficientNet-Lite0 for ImageNet from a predictor of 30 % of its parameters, in 3.8 MB.'),
    'sbs_resnet18_15pct': _resnet18('ResNet-18 for ImageNet from a predictor of 15 % of its parameters, in 4.1 MB.'),
    'sbs_resnet18_2mb': _resnet18('ResNet-18 for ImageNet from rounded weights, in 2 MB.'),
}
