"""Softmax attention in the windows of a batch of grids by PyTorch's fused kernels.

On a GPU one call of ``scaled_dot_product_attention`` serves all windows of a batch. It
broadcasts a bias over the batch alone, so the windows of an image stand beside their
heads, where each has a bias and a mask of its own. Tokens lie in the order (image, slot
in the window, window): the kernels take query, key and value as views of that, and
gathers move whole rows.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .pieces import sum_dtype
from .window_attention import GridAttention
from .window_grid import WindowGrid, pad_tokens

#: PyTorch copies a bias unless its rows start at multiples of so many items, see
#: ``preprocess_mask`` in aten/src/ATen/native/transformers/attention.cpp of
#: https://github.com/pytorch/pytorch.
ALIGNMENT = 8
#: Heads that the kernels take: the limit of a grid of blocks in CUDA.
MOST_HEADS = 2**16 - 1


class Order(NamedTuple):
    """Where the tokens and windows of a :class:`WindowGrid` stand here.

    Args:
        tokens (Tensor): For each (image, slot, window) the index of its token; the
            number of tokens marks padding, (B * N * w), int64.
        places (Tensor): For each token where it stands, (B * h * w), int64.
        padding (Tensor): Where padding stands, int64.
        masks (Tensor): For each window of an image the number of its mask, (w), int64.
    """

    tokens: Tensor
    places: Tensor
    padding: Tensor
    masks: Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # tensors of inference mode could not train later
@torch.no_grad()
def fused_order(grid: WindowGrid) -> Order:
    """The order for a grid."""
    windows, slots = len(grid.tokens) // grid.batch, grid.tokens.shape[1]
    tokens = grid.tokens.view(windows, grid.batch, slots).permute(1, 2, 0).flatten()
    order = tokens.argsort()
    places, padding = order.split([len(grid.places), len(order) - len(grid.places)])
    masks = torch.cat(
        [
            places.new_full((count // grid.batch,), number)
            for number, count in enumerate(grid.counts)
        ]
    )
    return Order(tokens, places, padding, masks)


class FusedGridAttention(GridAttention):
    """:class:`GridAttention` by one call of PyTorch's fused attention."""

    __slots__ = ()

    def forward(self) -> Tensor:
        order = fused_order(self.grid)
        return self.rows_of(self.attend(*self.operands()), order.places).flatten(1)

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        rows, key, bias, grid, _ = self
        order = fused_order(grid)
        operands = [x.detach().requires_grad_() for x in self.operands()]
        with torch.enable_grad():
            out = self.attend(*operands)
        grad = pad_tokens(grad, grid).unflatten(1, rows.shape[2:])
        grads = torch.autograd.grad(out, operands, self.heads_of(grad))
        of_query, of_key, of_value, of_bias = grads
        of_parts = (of_query, of_key, of_value)
        if rows.shape[1] == 2:
            of_parts = of_query, of_value
        grad_rows = torch.empty_like(rows)
        for part, heads in enumerate(of_parts):
            grad_rows[: len(order.places), part] = self.rows_of(heads, order.places)
            if grid.padded:
                grad_rows[-1, part] = self.rows_of(heads, order.padding).sum(dim=0)
        grad_key = None
        if key is not None:  # (B, w * num_heads, N, d) to (w * B, N, C)
            grad_key = of_key.unflatten(1, (-1, rows.shape[2])).permute(1, 0, 3, 2, 4)
            grad_key = grad_key.reshape_as(key)
        counts = [count // grid.batch for count in grid.counts]
        groups = of_bias.unflatten(1, (-1, rows.shape[2])).split(counts, dim=1)
        sums = [group.sum(dim=(0, 1), dtype=sum_dtype(bias)) for group in groups]
        return grad_rows, grad_key, torch.stack(sums)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """softmax(scale q k^T + bias) v, (B, w * num_heads, N, d)."""
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=self.scale
        )

    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, value and bias, each (B, w * num_heads, N, d or N)."""
        rows, key, bias, grid, _ = self
        query, *keys, value = map(self.heads_of, rows.unbind(1))
        if key is not None:  # (w * B, N, C)
            windows = key.unflatten(0, (-1, len(query))).permute(1, 2, 0, 3)
            windows = windows.reshape(*windows.shape[:2], -1, rows.shape[3])
            keys.append(windows.transpose(1, 2))
        slots = bias.shape[-1]
        bias = F.pad(bias, (0, -slots % ALIGNMENT))
        bias = bias.index_select(0, fused_order(grid).masks)
        bias = bias[..., :slots].flatten(0, 1).expand(len(query), -1, -1, -1)
        return query, sum(keys[1:], keys[0]), value, bias

    def heads_of(self, rows: Tensor) -> Tensor:
        """Rows of tokens (T, num_heads, d) as (B, w * num_heads, N, d)."""
        batch, slots = self.grid.batch, self.grid.tokens.shape[1]
        dims, rows = rows.shape[2], rows.index_select(0, fused_order(self.grid).tokens)
        return rows.view(batch, slots, -1, dims).transpose(1, 2)

    def rows_of(self, heads: Tensor, index: Tensor) -> Tensor:
        """Rows (t, num_heads, d) of (B, w * num_heads, N, d), where an index says."""
        rows = heads.transpose(1, 2).reshape(-1, *self.rows.shape[2:])
        return rows.index_select(0, index)
