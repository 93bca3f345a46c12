"""Forms of Swin's window attention."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attention.swin import ManifoldKeyShiftWindowMSA, ManifoldKeyWindowMSA
from .choice import Form, register
from .pieces import autocast, why_not_here
from .rule import is_traced, why_watched
from .window_attention import GridAttention, attend_by_groups, fused_attention
from .window_grid import WindowGrid, pad_tokens, to_windows, window_grid

Shape = tuple[int, int]


class GatheredWindows(Form):
    """Padding, rolling and cutting as one permutation, after the projection.

    Nothing is computed for the padding but one token.
    """

    replaces: ClassVar = {
        'w_msa': ManifoldKeyWindowMSA,
        'w_msa.softmax': nn.Softmax,
        'w_msa.attn_drop': nn.Dropout,
    }

    def attend(
        self,
        rows: Tensor,
        key: Tensor | None,
        bias: Tensor,
        grid: WindowGrid,
        scale: float,
    ) -> Tensor:
        """Attention within the windows; see :func:`.attend_by_groups`."""
        raise NotImplementedError

    def why_not(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        bias = layer.w_msa.relative_position_bias_table
        return why_dropped(layer.w_msa) or why_not_here(query, bias)

    def __call__(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> Tensor:
        msa = layer.w_msa
        grid = window_grid(len(query), *hw_shape, layer.window_size, shift, like=query)
        tokens = pad_tokens(query.flatten(0, 1), grid)
        rows = (msa.qkv if msa.has_linear_key else msa.qv)(tokens)
        key = None if msa.key is None else msa.key(to_windows(tokens, grid))
        bias = msa.position_bias() + grid.masks[:, None]  # (groups, num_heads, N, N)
        rows, key, bias = autocast(rows, key, bias)
        rows = rows.unflatten(1, (-1, msa.num_heads, msa.embed_dims // msa.num_heads))
        out = self.attend(rows, key, bias, grid, msa.scale)
        return msa.proj_drop(msa.proj(out)).view_as(query)


@register(ManifoldKeyShiftWindowMSA)
class WindowsInPieces(GatheredWindows):
    """Some windows at a time, and no logits kept, on a CPU."""

    name = 'windows in pieces'

    def why_not(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        if query.device.type != 'cpu':
            return f'the device is {query.device.type}'
        return super().why_not(layer, query, hw_shape, shift)

    def attend(self, *args: object) -> Tensor:
        return GridAttention.apply(*args)


@register(ManifoldKeyShiftWindowMSA)
class WindowsByGroups(GatheredWindows):
    """PyTorch's fused attention for all windows with one mask at a time."""

    name = 'windows by groups'

    def attend(self, *args: object) -> Tensor:
        return attend_by_groups(*args)


@register(ManifoldKeyWindowMSA)
class FusedAttention(Form):
    """PyTorch's fused attention in place of softmax and its two products.

    Compilers and exporters see the operator; transforms of ``torch.func`` and
    forward-mode differentiation need the products.
    """

    name = 'fused attention'
    transparent = True
    replaces: ClassVar = dict(softmax=nn.Softmax, attn_drop=nn.Dropout)

    def why_not(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, bias: Tensor
    ) -> str | None:
        if torch.jit.is_tracing():
            return 'counters of FLOPs read a trace, and do not know fused attention'
        if is_traced():
            return why_dropped(layer)
        # it takes the bias in the dtype of the products, half precision included
        watched = why_watched(query, key, value, bias)
        return watched or why_dropped(layer) or why_not_here(query, bias)

    def __call__(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, bias: Tensor
    ) -> Tensor:
        tensors = autocast(query, key, value, bias)
        return fused_attention(*tensors, layer.scale)


def why_dropped(layer: nn.Module) -> str | None:
    """Why attention weights must be seen: they are dropped. None if they are not."""
    return (
        'attention weights are dropped'
        if layer.training and layer.attn_drop.p
        else None
    )
