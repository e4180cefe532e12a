"""Names of classes, for people."""
from collections.abc import Mapping
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

__all__ = ['MAX_TEXT', 'class_names']

# Of the architectures of this package that are made for it.
CIFAR10 = 'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'
MAX_TEXT = 200  # characters of a name in a file that others read


def class_names(base: str, pretrained_cfg: Mapping[str, Any], short: bool = False) -> list[str]:
    """A name for each class: those of the description, or the data set's that has as many, or numbers. Of ImageNet's,
    which are lists of synonyms, ``short`` leaves the first.

    Example:
        >>> class_names('resnet20_cifar10', {'num_classes': 10})[3]
        'cat'
    """
    count, names = pretrained_cfg.get('num_classes') or 0, pretrained_cfg.get('label_names') or ()
    if count and len(names) == count:
        texts = pretrained_cfg.get('label_descriptions') or {}
        return [str(texts.get(name, name)) for name in names]
    if base.endswith('_cifar10') and count == len(CIFAR10):
        return [*CIFAR10]
    if subset := infer_imagenet_subset({'num_classes': count}):
        info = ImageNetInfo(subset)
        descriptions = [info.index_to_description(index) for index in range(count)]
        return [text.partition(',')[0] for text in descriptions] if short else descriptions
    return [f'class {index}' for index in range(count)]
