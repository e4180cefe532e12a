"""The ``sbs_*`` entries, and ``sbs`` for any artifact that has no entry of its own."""
from collections.abc import Callable
from typing import Any

from timm.models import PretrainedCfg, filter_pretrained_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from timm.models._registry import _deprecated_models  # names that list_models leaves out
from torch import nn

import timm_sbs.models.resnet_cifar  # noqa: F401  (registers bases that entries describe)
from timm_sbs.common.entries import ENTRIES, Entry

__all__ = ['ENTRIES']  # and the entry points, which timm adds


def _default_cfg(name: str, entry: Entry) -> dict[str, Any]:
    """timm's description of the weights that the entry is fitted to."""
    described = get_pretrained_cfg(entry.weights or entry.base) or PretrainedCfg()
    cfg = filter_pretrained_cfg(described.to_dict(), remove_source=True)
    for field in ('architecture', 'tag', 'custom_load', 'state_dict', 'notes'):
        cfg.pop(field, None)
    return {**cfg, 'license': entry.license or cfg.get('license'), 'hf_hub_id': f'timm-sbs/{name}'}


default_cfgs = generate_default_cfgs({
    **{name: _default_cfg(name, entry) for name, entry in ENTRIES.items()},
    'sbs': {},
})


def _entrypoint(name: str, base: str | None, text: str) -> Callable[..., nn.Module]:
    """The function that timm calls to create an entry's model, under the entry's name."""
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        from timm_sbs.models.create import create_generated  # registering needs none of what that imports

        return create_generated(name, base, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = text
    return register_model(create)


for _name, _entry in ENTRIES.items():
    globals()[_name] = _entrypoint(
        _name, _entry.base,
        f'{_entry.text} Licence: {default_cfgs[_name].default.license}, in the package {_entry.package}.')
# The architecture in every artifact's config.json. It is not listed, since it stands for no network without one.
sbs = _entrypoint('sbs', None, 'Any artifact, whose config.json names the base that timm builds.')
_deprecated_models['sbs'] = None
