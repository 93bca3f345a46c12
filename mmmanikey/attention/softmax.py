"""Softmax attention in the windows of a batch of grids, piece by piece. (Ours.)

Query and value are projected in the order of the image, the padding as one more token.
On a CPU, PyTorch's scaled_dot_product_attention writes all logits to memory when the
bias needs a gradient. Here windows are gathered, and their logits computed, in pieces
that stay in the cache; the backward pass does so again.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from ..keys.kernels.common import autocast, is_exported, is_traced, pieces
from .window_grid import WindowGrid, from_windows, pad_tokens, to_windows

softmax_backward = torch.ops.aten._softmax_backward_data


def grid_attention(
    parts: Tensor,
    key: Tensor | None,
    bias: Tensor,
    grid: WindowGrid,
    scale: float,
    dropout: float,
) -> Tensor:
    """softmax(scale q k^T + bias) v within the windows of a batch of grids.

    Args:
        parts (Tensor): Query, key and value of each of the T tokens, (T, 3 * C), or
            only query and value, (T, 2 * C). Where grids are padded, those of the
            padding follow as one more row.
        key (Tensor, optional): Key of the windows, (W, N, C), added to that in
            ``parts`` if there is one, and needed if there is none.
        bias (Tensor): For each of ``grid.counts``, (groups, num_heads, N, N).
        grid (WindowGrid): The windows.
        scale (float): Factor of the logits.
        dropout (float): Of the attention weights.

    Returns:
        Tensor: (T, C).
    """
    parts, key, bias = autocast(parts, key, bias)
    if parts.device.type == 'cpu' and not dropout and not is_traced():
        return GridAttention.apply(parts, key, bias, grid, scale)
    windows = to_windows(parts, grid)
    keys = [None] * len(bias) if key is None else key.split(list(grid.counts))
    outs = [
        join_heads(
            attention(
                *heads_of(*group, bias.shape[1]), aligned(mask)[None], scale, dropout
            )
        )
        for *group, mask in zip(windows.split(list(grid.counts)), keys, bias)
    ]
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    return from_windows(out, grid)


def heads_of(
    parts: Tensor, key: Tensor | None, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of windows, each (w, num_heads, N, head_dims)."""
    channels = parts.shape[2] // 3 if key is None else key.shape[2]
    query, *keys, value = parts.split(channels, dim=2)
    if key is None:
        key = keys[0]
    elif keys:
        key = key + keys[0]
    return tuple(split_heads(part, num_heads) for part in (query, key, value))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(w, N, num_heads * head_dims) as (w, num_heads, N, head_dims)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(w, num_heads, N, head_dims) as (w, N, num_heads * head_dims)."""
    x = x.transpose(1, 2)
    if is_exported():  # else the strides that it met decide if the graph has a copy
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale q k^T + bias) v.

    PyTorch's fused form; in a trace of ``torch.jit`` its two products stand alone. The
    FLOP counters of mmengine and fvcore read such a trace, and they know products, but
    count nothing for ``scaled_dot_product_attention``.

    Args:
        query (Tensor): (B, num_heads, N, head_dims).
        key (Tensor): As the query.
        value (Tensor): As the query.
        bias (Tensor, optional): Broadcast to (B, num_heads, N, N).
        scale (float): Factor of the logits.
        dropout (float): Of the attention weights. Defaults to 0.

    Returns:
        Tensor: (B, num_heads, N, head_dims).
    """
    if not torch.jit.is_tracing():
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
        )
    logits = scale * query @ key.transpose(2, 3)
    weights = (logits if bias is None else logits + bias).softmax(dim=-1)
    return F.dropout(weights, dropout) @ value


def aligned(bias: Tensor) -> Tensor:
    """The bias with rows that start at multiples of 8, as fused CUDA kernels want."""
    length = bias.shape[-1]
    if bias.device.type != 'cuda' or length % 8 == 0:
        return bias
    return F.pad(bias, (0, -length % 8))[..., :length]


class GridAttention(Function):
    """See :func:`grid_attention`; keeps ``parts`` and ``key``, no second derivative.

    Rows of head_dims are gathered straight into the order that the products want, and
    from the order in which they come out.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        parts: Tensor,
        key: Tensor | None,
        bias: Tensor,
        grid: WindowGrid,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(parts, key, bias)
        ctx.grid, ctx.scale = grid, scale
        rows = rows_of(parts, key, bias)
        outs = like_windows(rows[:, :1], grid)
        with torch.autocast('cpu', enabled=False):
            for group, piece in window_pieces(grid, bias):
                q, k, v = gather(rows, key, grid, piece)
                weights = attention_weights(q, k, bias[group], scale)
                product(weights, v, out=outs[0, piece])
        out = parts.new_empty(len(grid.places), rows[0, 0].numel())
        return from_heads(outs, grid, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts, key, bias = ctx.saved_tensors
        grid = ctx.grid
        rows = rows_of(parts, key, bias)
        grad = pad_tokens(grad, grid).view_as(rows[:, :1])  # none of the padding
        grads = like_windows(rows, grid)  # (3 or 2, W, num_heads, N, head_dims)
        grad_key = None if key is None else torch.empty_like(key)
        grad_bias = torch.zeros_like(bias)
        for group, piece in window_pieces(grid, bias):
            q, k, v = gather(rows, key, grid, piece)
            g = heads_of_part(grad, 0, grid.tokens[piece])
            weights = attention_weights(q, k, bias[group], ctx.scale)
            product(weights.transpose(2, 3), g, out=grads[-1, piece])
            inner = softmax_backward(g @ v.transpose(2, 3), weights, 3, weights.dtype)
            grad_bias[group] += inner.sum(dim=0)
            inner.mul_(ctx.scale)
            product(inner, k, out=grads[0, piece])
            to_key = inner.transpose(2, 3) @ q
            if len(grads) == 3:
                grads[1, piece] = to_key
            if key is not None:
                split_heads(grad_key[piece], bias.shape[1]).copy_(to_key)
        grad_parts = torch.empty_like(parts)
        from_heads(grads, grid, out=grad_parts[: len(grid.places)])
        if grid.padded:
            window, place = (grid.tokens == len(grid.places)).nonzero(as_tuple=True)
            torch.sum(grads[:, window, :, place].flatten(1), dim=0, out=grad_parts[-1])
        return grad_parts, grad_key, grad_bias, None, None


def rows_of(parts: Tensor, key: Tensor | None, bias: Tensor) -> Tensor:
    """The parts and heads of (T, 3 * C), (T, 3 or 2, num_heads, head_dims)."""
    count = parts.shape[1] // (parts.shape[1] // 3 if key is None else key.shape[2])
    return parts.view(len(parts), count, bias.shape[1], -1)


def like_windows(rows: Tensor, grid: WindowGrid) -> Tensor:
    """Empty (parts, W, num_heads, N, head_dims) for what :func:`rows_of` gives."""
    _, parts, heads, dims = rows.shape
    windows, tokens = grid.tokens.shape
    return rows.new_empty(parts, windows, heads, tokens, dims)


def gather(
    rows: Tensor, key: Tensor | None, grid: WindowGrid, piece: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of some windows, each (w, num_heads, N, head_dims)."""
    query, *keys, value = (
        heads_of_part(rows, part, grid.tokens[piece]) for part in range(rows.shape[1])
    )
    if key is not None:
        keys.append(split_heads(key[piece], rows.shape[2]))
    return query, keys[0] if len(keys) == 1 else keys[0] + keys[1], value


def heads_of_part(rows: Tensor, part: int, tokens: Tensor) -> Tensor:
    """Rows (T, parts, num_heads, d) of tokens (w, N), (w, num_heads, N, d)."""
    _, parts, heads, dims = rows.shape
    head = torch.arange(part * heads, (part + 1) * heads, device=rows.device)
    index = tokens[:, None] * (parts * heads) + head[:, None]  # (w, num_heads, N)
    rows = rows.reshape(-1, dims).index_select(0, index.flatten())
    return rows.view(*index.shape, dims)


def from_heads(windows: Tensor, grid: WindowGrid, out: Tensor) -> Tensor:
    """Windows (parts, W, num_heads, N, d) in the order of the tokens.

    Args:
        windows (Tensor): Contiguous.
        grid (WindowGrid): The windows.
        out (Tensor): Where to write, (T, parts * num_heads * d), contiguous.

    Returns:
        Tensor: ``out``.
    """
    parts, count, heads, tokens, dims = windows.shape
    part, head = (torch.arange(n, device=out.device) for n in (parts, heads))
    start = (part[:, None] * count * heads + head) * tokens  # (parts, num_heads)
    places = grid.places // tokens * (heads * tokens) + grid.places % tokens
    index = places[:, None] + start.flatten()
    torch.index_select(
        windows.view(-1, dims), 0, index.flatten(), out=out.view(-1, dims)
    )
    return out


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """a @ b of (w, num_heads, ...), written to ``out``."""
    torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out=out.flatten(0, 1))


def attention_weights(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T + bias), (w, num_heads, N, N)."""
    logits = (q @ k.transpose(2, 3)).mul_(scale).add_(bias)
    return torch.softmax(logits, dim=-1, out=logits)


def window_pieces(grid: WindowGrid, bias: Tensor) -> Iterator[tuple[int, slice]]:
    """Pieces of windows with one bias whose logits fit a buffer, with their group."""
    bytes_each = bias[0].numel() * bias.element_size()
    end = 0
    for group, count in enumerate(grid.counts):
        start, end = end, end + count
        for piece in pieces(start, end, bytes_each, bias.device):
            yield group, piece
