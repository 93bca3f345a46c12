"""What the backbones share: per-layer keys and the same start in every framework."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..arguments import is_list, type_name, typed_config
from ..forms.rule import real_tensors, untraced
from ..registry import WEIGHT_INITIALIZERS
from .spellings import in_stock_words

#: Initialisation of Swin and DeiT. mmpretrain configures it on the classifier; ours
#: brings it along, so that mmdet and mmseg start from the same distribution.
DEFAULT_INIT_CFG = [
    dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
    dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
]
#: What loads weights; those of the frameworks do it as ours does.
LOADING = ('PretrainedBackbone', 'Pretrained', 'PretrainedInit', 'Pretrained_Part')

#: Parameters before the first block that mmpretrain does not count as its stem.
EMBEDDINGS = ('absolute_pos_embed', 'register_tokens', 'pre_norm.')


@untraced
def check_images(x: Tensor, in_channels: int) -> None:
    """Raise ValueError unless ``x`` are images with ``in_channels`` channels."""
    is_float = isinstance(x, Tensor) and x.is_floating_point()
    if not is_float or x.dim() != 4 or x.shape[1] != in_channels or 0 in x.shape:
        given = f'{tuple(x.shape)}, {x.dtype}' if isinstance(x, Tensor) else type(x)
        raise ValueError(
            f'the backbone takes images (B, {in_channels}, H, W) of floating point, '
            f'none of these 0; got {given}'
        )


def as_ours(cfg: Mapping, classifier_norm: bool) -> dict:
    """A config that loads weights, as one of ``PretrainedBackbone``."""
    name, cfg = type_name(cfg), {**cfg, 'type': 'mmmanikey.PretrainedBackbone'}
    if name != 'PretrainedBackbone':
        cfg['classifier_norm'] = classifier_norm
        cfg.pop('map_location', None)  # what is loaded is copied into the backbone
    if name == 'Pretrained_Part':  # mmseg's, for the image encoder of a CLIP
        cfg['prefix'] = 'image_encoder.'
    return cfg


class RealRates(TorchFunctionMode):
    """Let mmpretrain's Swin read its drop path rates where tensors hold no numbers.

    Its constructor calls ``item`` on each of what ``torch.linspace`` gives.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence, args: Sequence = (), kwargs=None
    ) -> object:
        if func is not torch.linspace:
            return func(*args, **(kwargs or {}))
        with real_tensors():  # NumPy's numbers have an item as well
            return func(*args, **(kwargs or {})).double().numpy()


class MatchedInit(BaseModule):
    """Mixin: default initialisation first, pretrained weights last.

    A backbone passes ``init_cfg`` through :meth:`split_init_cfg` before
    ``super().__init__``. mmengine then runs the default initialisation over the whole
    backbone and its children, and only afterwards the weights are loaded: what a
    checkpoint lacks (new keys, output norms) has its proper start.

    Most layers initialise themselves in their constructors, which does nothing on the
    meta device. Once a backbone that was built there has memory (``to_empty``),
    ``init_weights`` builds another one with the same arguments on the CPU, and copies
    its values.
    """

    #: mmpretrain's class that the backbone extends.
    stock_class: type
    #: Other classes whose arguments it takes, each with a function that has these
    #: arguments and gives those of our backbone that do not mean the same in both.
    spellings: Mapping[str, Callable]
    #: A check for each argument that has one.
    checks: Mapping[str, Callable[[str, object], object]]

    @classmethod
    def output_channels(cls, **arguments: object) -> list[int]:
        """Channels of the maps of a backbone of these arguments, those of a config."""
        listed = {*inspect.signature(cls).parameters} - {'arch', 'init_cfg'}
        own = {name: value for name, value in arguments.items() if name in listed}
        beside = ('type', 'init_cfg', 'pretrained', *own)
        given = {n: value for n, value in arguments.items() if n not in beside}
        return cls.channels_of(in_stock_words(cls, given, own))

    def __new__(cls, *args, **kwargs) -> 'MatchedInit':
        module = super().__new__(cls)
        # not by setattr: nn.Module is not initialised yet
        module.__dict__['built_with'] = copy.deepcopy((args, kwargs))
        return module

    @torch.no_grad()
    def start_as_if_built(self) -> None:
        """Copy the parameters and buffers of a backbone built on the CPU."""
        args, kwargs = self.built_with
        with real_tensors():
            built = type(self)(*args, **kwargs).state_dict()
        for name, tensor in self.state_dict().items():
            tensor.copy_(built[name])

    def as_config(self) -> dict:
        """The arguments that this backbone was built with, and the class's ``type``."""
        args, kwargs = self.built_with
        return {'type': type(self).__name__, **dict(zip(['arch'], args)), **kwargs}

    def split_init_cfg(
        self, init_cfg: dict | list | None, classifier_norm: bool = True
    ) -> tuple[list, list]:
        """Split into (initialisation, loading of pretrained weights).

        Args:
            init_cfg (dict | list, optional): One config or several.
            classifier_norm (bool): What ``Pretrained`` means with a classifier's final
                norm, see :class:`mmmanikey.checkpoint.PretrainedBackbone`. Defaults to
                True.
        """
        cfgs = [] if init_cfg is None else copy.deepcopy(init_cfg)
        cfgs = cfgs if is_list(cfgs) else [cfgs]
        for cfg in cfgs:
            typed_config('init_cfg', cfg)
        loads = [cfg for cfg in cfgs if type_name(cfg) in LOADING]
        others = [cfg for cfg in cfgs if type_name(cfg) not in LOADING]
        pretrained = [as_ours(cfg, classifier_norm) for cfg in loads]
        for cfg in pretrained:
            own = {name: value for name, value in cfg.items() if name != 'override'}
            WEIGHT_INITIALIZERS.build(own)  # so that wrong arguments are refused now
        return others or copy.deepcopy(DEFAULT_INIT_CFG), pretrained

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, and number of depths.

        What comes before the first block is the stem; mmpretrain's method takes some of
        it for the last depth.
        """
        if param_name.startswith(tuple(prefix + name for name in EMBEDDINGS)):
            param_name = f'{prefix}patch_embed'
        return super().get_layer_depth(param_name, prefix)

    def train(self, mode: bool = True) -> 'MatchedInit':
        """Set the mode, keep what is frozen in eval mode, and return the backbone."""
        super().train(mode)
        self._freeze_stages()
        return self

    def init_weights(self) -> None:
        """Initialise, then load the pretrained weights if ``init_cfg`` names some."""
        if self.is_init:
            return BaseModule.init_weights(self)  # warns, and changes nothing
        if self.built_on_meta:
            self.start_as_if_built()
        super().init_weights()
        if self.pretrained_cfg:
            initialize(self, self.pretrained_cfg)
