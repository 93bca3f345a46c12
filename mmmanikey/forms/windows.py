"""The form of Swin's window attention."""

from typing import ClassVar

from torch import Tensor, nn

from ..attention.swin import ManifoldKeyShiftWindowMSA, ManifoldKeyWindowMSA
from .choice import Form, register
from .gradients import compute
from .pieces import autocast, why_not_here
from .window_attention import GridAttention
from .window_grid import pad_tokens, to_windows, window_grid

Shape = tuple[int, int]


@register(ManifoldKeyShiftWindowMSA)
class WindowsInPieces(Form):
    """Padding, rolling and cutting as one permutation after the projection.

    Nothing is computed for the padding but one token. Some windows are attended to at a
    time, and no logits are kept.
    """

    name = 'windows in pieces'
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
        tokens = pad_tokens(query.flatten(0, 1), grid)
        rows = (msa.qkv if msa.has_linear_key else msa.qv)(tokens)
        key = None if msa.key is None else msa.key(to_windows(tokens, grid))
        bias = msa.position_bias() + grid.masks[:, None]  # (groups, num_heads, N, N)
        rows, key, bias = autocast(rows, key, bias)
        rows = rows.unflatten(1, (-1, msa.num_heads, msa.embed_dims // msa.num_heads))
        out = compute(GridAttention(rows, key, bias, grid, msa.scale))
        return msa.proj_drop(msa.proj(out)).view_as(query)
