"""The original of a run: the network that timm will build from the artifact, with the tensors of the model that the
user gave. It is compared with that model before any work, which stays as it is."""
import copy
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from timm_sbs.artifact.original import ASKED_ARGS, describe_original
from timm_sbs.common.errors import TargetError, short_reason
from timm_sbs.predictor.base_model import BaseModel, canonical_args
from timm_sbs.predictor.pretrained_cfg import pretrained_cfg_of

__all__ = ['adopted', 'unwrapped']

BATCH = 2  # random images on which both networks are compared
# Largest difference of their outputs, relative to these: the same operations in another memory layout differ by less.
TOLERANCE = 1e-4
_ADVICE = 'Pass the arguments that it was created with as model_kwargs (--model-kwargs).'


def unwrapped(model: nn.Module) -> nn.Module:
    """A model without torch.compile and without what runs it on several devices."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, '_orig_mod', None), nn.Module):
            model = model.get_submodule('_orig_mod')
        else:
            return model


def adopted(model: nn.Module, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """timm's network with the tensors of a model, float32 on the CPU, in eval mode and without gradients.

    The model, which timm has made, may have any floating-point precision and be on any device. It is run once.
    ``model_args`` are arguments that timm does not remember.

    Raises:
        TargetError: timm would build another network from what an artifact holds, or a tensor cannot be stored.

    Example:
        >>> original = adopted(timm.create_model('resnet18', global_pool='max').half())
        >>> original._model_args['global_pool'], original.conv1.weight.dtype
        ('max', torch.float32)
    """
    state = model.state_dict()
    _check_tensors(state)
    base = describe_original(model, model_args)
    original = timm.create_model(base.name, **canonical_args(base.args, base.pretrained_cfg)).eval()
    try:
        original.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()})
    except RuntimeError as e:
        raise TargetError(f"The model is not what timm builds as '{base.name}' with arguments {base.args}: "
                          f'{short_reason(e)}. {_ADVICE} Later changes of the network cannot be stored.') from e
    _check_function(model, original, base)
    setattr(original, ASKED_ARGS, dict(model_args or {}))
    setattr(original, 'pretrained_cfg', dict(pretrained_cfg_of(model)))  # noqa: B010
    return original.requires_grad_(False).cpu()


def _check_tensors(state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.is_quantized or tensor.is_complex() \
                or tensor.layout != torch.strided:
            kind = f'{tensor.dtype} on {tensor.device}' if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TargetError(f"'{name}' of the model is {kind}, which an artifact cannot hold. It holds ordinary "
                              f'tensors of floating-point numbers, integers and truth values.')
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise TargetError(f"'{name}' of the model holds values that are not finite in float32. Did its training "
                              f'diverge?')


@torch.no_grad()
def _check_function(model: nn.Module, original: nn.Module, base: BaseModel) -> None:
    """Raises TargetError where both networks have other outputs on the same random images."""
    device, size = next(iter(model.parameters())).device, base.pretrained_cfg['input_size']
    images = torch.randn(BATCH, *size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        # Lower precisions hide small differences, or cannot be mixed.
        with torch.compiler.set_stance('force_eager'):
            found = copy.deepcopy(model).float().eval()(images)
    except Exception as e:
        raise TargetError(f'The model cannot be run on images of {list(size)}: {short_reason(e)}') from e
    expected = original.to(device)(images)
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        raise TargetError(f'The output of the model is a {type(found).__name__}, but must be one tensor.')
    difference = float('inf')
    if found.shape == expected.shape:
        found, expected = (outputs.double().nan_to_num(nan=float('nan')) for outputs in (found, expected))
        difference = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    if not difference <= TOLERANCE:
        raise TargetError(f"The model is not what timm builds as '{base.name}' with arguments {base.args}: with the "
                          f'same tensors, outputs differ by {100 * difference:.3g} %. {_ADVICE}')
