"""Keys in any backbone of a config. (Not from the paper.)"""

from collections.abc import Mapping
from functools import partial

from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from ..anywhere import insert_keys
from ..arguments import typed_config
from ..attention.keyed import Keyed, keyed_class, keyed_layers
from ..registry import MODELS


class StartsKeys(Keyed):
    """A backbone whose initialisation may draw every Linear layer, the keys' too."""

    def init_weights(self) -> None:
        """Initialise; keys that no checkpoint brings start again, at zero."""
        keys, loaded = [layer.key for layer in keyed_layers(self).values()], set()

        def note(key: nn.Module, state_dict: dict, prefix: str, *_) -> None:
            if any(name.startswith(prefix) for name in state_dict):
                loaded.add(key)

        hooks = [k._register_load_state_dict_pre_hook(partial(note, k)) for k in keys]
        first = not self.is_init
        super().init_weights()
        for hook in hooks:
            hook.remove()
        for key in keys:
            if first and key not in loaded:
                key.reset_parameters()
                key.zero_last_layer()


@MODELS.register_module()
def with_keys(
    backbone: Mapping, key: Mapping, pretrained: str | None = None, **options: object
) -> nn.Module:
    """Build a backbone and insert keys: ``type='mmmanikey.with_keys'`` in a config.

    Args:
        backbone (Mapping): Config of any registered backbone, such as
            ``dict(type='mmpretrain.SwinTransformerV2', ...)``.
        key (Mapping): See ``insert_keys``.
        pretrained (str, optional): The file that a segmentor of mmseg hands to its
            backbone, which gets it. Defaults to None.
        **options (object): The other arguments of ``insert_keys``.

    Returns:
        nn.Module: That very backbone; the names of its weights are unchanged.
    """
    handed = {} if pretrained is None else dict(pretrained=pretrained)
    model = MMENGINE_MODELS.build({**typed_config('backbone', backbone), **handed})
    insert_keys(model, key, **options)
    if isinstance(model, BaseModule):
        model.__class__ = keyed_class(type(model), StartsKeys)
    return model
