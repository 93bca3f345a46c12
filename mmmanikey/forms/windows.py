"""The forms of Swin's window attention."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attention.swin import ManifoldKeyShiftWindowMSA, ManifoldKeyWindowMSA
from ..keys.windows import windows_along
from .choice import Form, register
from .fused_windows import ALIGNMENT, MOST_HEADS, FusedGridAttention
from .gradients import compute
from .pieces import autocast, product_dtype, why_not_here
from .window_attention import GridAttention
from .window_grid import pad_tokens, to_windows, window_grid

Shape = tuple[int, int]


class GatheredWindows(Form):
    """Padding, rolling and cutting as one permutation after the projection.

    Nothing is computed for the padding but one token, and no logits are kept.
    """

    replaces: ClassVar = {
        'w_msa': ManifoldKeyWindowMSA,
        'w_msa.softmax': nn.Softmax,
        'w_msa.attn_drop': nn.Dropout,
    }

    def why_not(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        msa = layer.w_msa
        if layer.training and msa.attn_drop.p:
            return 'attention weights are dropped'
        return why_not_here(query, msa.relative_position_bias_table)

    def __call__(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> Tensor:
        msa = layer.w_msa
        like = query.device, query.dtype
        grid = window_grid(len(query), *hw_shape, layer.window_size, shift, *like)
        (tokens,) = autocast(query.flatten(0, 1))  # once, for all that take them
        tokens = pad_tokens(tokens, grid)
        rows = (msa.qkv if msa.has_linear_key else msa.qv)(tokens)
        key = None if msa.key is None else msa.key(to_windows(tokens, grid))
        bias = msa.position_bias() + grid.masks[:, None]  # (groups, num_heads, N, N)
        rows, key, bias = autocast(rows, key, bias)
        rows = rows.unflatten(1, (-1, msa.num_heads, msa.embed_dims // msa.num_heads))
        out = compute(self.attention(rows, key, bias, grid, msa.scale))
        return msa.proj_drop(msa.proj(out)).view_as(query)


@register(ManifoldKeyShiftWindowMSA)
class FusedWindows(GatheredWindows):
    """All windows in one call of PyTorch's fused attention, for CUDA."""

    name = 'fused windows'
    attention = FusedGridAttention

    def why_not(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        msa = layer.w_msa
        if query.device.type != 'cuda':
            return f'the device is {query.device.type}'
        if msa.embed_dims // msa.num_heads % ALIGNMENT:
            return f'heads have no multiple of {ALIGNMENT} channels'
        if product_dtype(query) == torch.float64:
            return 'the dtype is torch.float64'
        down, across = (windows_along(side, layer.window_size) for side in hw_shape)
        heads = down * across * msa.num_heads
        if heads > MOST_HEADS:
            return f'there are {heads} windows and heads of an image'
        return super().why_not(layer, query, hw_shape, shift)


@register(ManifoldKeyShiftWindowMSA)
class WindowsInPieces(GatheredWindows):
    """Some windows at a time."""

    name = 'windows in pieces'
    attention = GridAttention
