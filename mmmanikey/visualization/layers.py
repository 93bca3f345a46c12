"""The attention layers of a backbone, ours or a stock one, and what goes into them.

The Swin of mmdet, mmseg and mmpretrain and the ViT of mmpretrain and mmseg are read as
ours are: a copy of each attention layer is adopted with the stock linear key, to which
one of ``insert_keys`` is added.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from mmcv.cnn.bricks.transformer import MultiheadAttention as MMCVAttention
from mmpretrain.models.utils import MultiheadAttention, ShiftWindowMSA, WindowMSA
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..attention import ManifoldKeyAttention, ManifoldKeyShiftWindowMSA
from ..attention.keyed import keyed_layers
from ..attention.slot import KeySlot
from ..backbones.structure import attention_layers, slot_of
from .token_windows import TokenWindows, token_windows


class Layer(NamedTuple):
    """An attention layer on one batch of images.

    Args:
        number (int): Counted from 0 over the whole backbone.
        module (nn.Module): The layer, or a copy of a stock layer that is one of ours.
        windows (TokenWindows): Its input.
    """

    number: int
    module: nn.Module
    windows: TokenWindows


def readable(layer: nn.Module) -> nn.Module:
    """The layer itself where it is ours, else a copy of it that is.

    Args:
        layer (nn.Module): One of :func:`..backbones.structure.attention_layers`.
    """
    if any(not is_parametrized(each) for each in keyed_layers(layer).values()):
        layer = copy.deepcopy(layer)
        (held,) = keyed_layers(layer).values()
        key = held.key
        held.take_key()
        held.__class__ = held.stock
        layer = readable(layer)
        slot_of(layer).key = key
        return layer
    if isinstance(slot_of(layer), KeySlot):
        return layer
    if isinstance(layer, MMCVAttention):
        return ManifoldKeyAttention.adopt(from_mmcv(layer))
    layer = copy.deepcopy(layer)
    if slot_of(layer) is layer:
        return ManifoldKeyAttention.adopt(layer)
    if type(layer) is not ShiftWindowMSA:  # mmdet's and mmseg's pad any small map
        layer.pad_small_map = True
        layer.__class__, layer.w_msa.__class__ = ShiftWindowMSA, WindowMSA
    return ManifoldKeyShiftWindowMSA.adopt(layer)


def from_mmcv(layer: MMCVAttention) -> MultiheadAttention:
    """mmpretrain's attention with the weights of mmcv's, which is mmseg's ViT's."""
    inner = layer.attn
    has_bias = inner.in_proj_bias is not None
    found = MultiheadAttention(
        inner.embed_dim, inner.num_heads, qkv_bias=has_bias, proj_bias=has_bias
    )
    found.load_state_dict(
        {
            name.replace('in_proj_', 'qkv.').replace('out_proj.', 'proj.'): value
            for name, value in inner.state_dict().items()
        }
    )
    found.to(inner.in_proj_weight)
    return found.eval()


def layer_numbers(
    backbone: nn.Module, numbers: Sequence[int] | None = None
) -> list[int]:
    """The layers' numbers from 0, of those counted from the end too.

    Args:
        backbone (nn.Module): Any.
        numbers (Sequence[int], optional): Negative ones count from the end. Defaults to
            None, all layers.

    Raises:
        ValueError: If the backbone has no attention that can be read, or not so many
            layers.
    """
    count = len(attention_layers(backbone))
    if not (count and hasattr(backbone, 'patch_embed')):
        raise ValueError(
            f'{type(backbone).__name__} has no attention layer that can be read: take '
            'ManifoldKeySwin, ManifoldKeyViT, the SwinTransformer of mmdet, mmseg or '
            "mmpretrain, or mmpretrain's or mmseg's VisionTransformer"
        )
    for number in numbers or ():
        if not -count <= number < count:
            raise ValueError(f'layer must be in {-count}..{count - 1}, got {number}')
    return [number % count for number in (range(count) if numbers is None else numbers)]


@contextmanager
def watching(
    backbone: nn.Module,
    numbers: Sequence[int],
    see: Callable[[Layer], Tensor | None],
) -> Iterator[None]:
    """Show layers to ``see`` whenever the backbone runs inside.

    Args:
        backbone (nn.Module): In eval mode.
        numbers (Sequence[int]): From 0.
        see (Callable[[Layer], Tensor | None]): What it returns is the layer's output
            from here on, unless it is ``None``.
    """
    layers = attention_layers(backbone)
    class_token = getattr(backbone, 'cls_token', None) is not None
    # mmseg's may have one that it does not hand to its layers
    class_token = getattr(backbone, 'with_cls_token', class_token)
    grids = []  # a stock ViT does not tell its layers

    def watch(number: int, module: nn.Module) -> Callable:
        def hook(
            _: nn.Module, args: tuple, kwargs: dict, output: Tensor
        ) -> Tensor | None:
            hw_shape = args[1] if len(args) > 1 else grids[-1]
            windows = token_windows(module, args[0], hw_shape)
            windows = windows._replace(has_class_token=class_token)
            seen = see(Layer(number, module, windows))
            if seen is not None and 'identity' in kwargs:  # mmcv's attention adds it
                seen = seen + kwargs['identity']
            return seen

        return hook

    with ExitStack() as stack:
        stack.callback(
            backbone.patch_embed.register_forward_hook(
                lambda _, args, output: grids.append(output[1])
            ).remove
        )
        for number in numbers:
            hook = watch(number, readable(layers[number]))
            handle = layers[number].register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


@torch.no_grad()
def record_layers(
    backbone: nn.Module, images: Tensor, numbers: Sequence[int] | None = None
) -> list[Layer]:
    """Run images and gather the windows of attention layers.

    Args:
        backbone (nn.Module): Ours or a stock one, in eval mode.
        images (Tensor): Normalised images, (B, 3, H, W).
        numbers (Sequence[int], optional): Of the layers, negative ones from the end.
            Defaults to None, all of them.

    Returns:
        list[Layer]: In the order of the backbone.

    Raises:
        ValueError: If there is no such layer, or none at all.
    """
    seen = []
    with watching(backbone, sorted({*layer_numbers(backbone, numbers)}), seen.append):
        backbone(images)
    return seen
