"""Softmax attention in the windows of a batch of grids, piece by piece.

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
from torch.autograd.function import FunctionCtx

from .gradients import by_hand, once_by_operator
from .pieces import pieces
from .rule import is_traced
from .window_grid import WindowGrid, from_windows, pad_tokens, to_windows

softmax_backward = torch.ops.aten._softmax_backward_data


def attend_by_groups(
    rows: Tensor, key: Tensor | None, bias: Tensor, grid: WindowGrid, scale: float
) -> Tensor:
    """softmax(scale q k^T + bias) v within the windows of a batch of grids.

    All windows with one mask are one call of PyTorch's fused attention.

    Args:
        rows (Tensor): Query, key and value of each of the T tokens, (T, 3, num_heads,
            head_dims), or only query and value, (T, 2, num_heads, head_dims). Where
            grids are padded, those of the padding follow as one more row.
        key (Tensor, optional): Key of the windows, (W, N, C), added to that in ``rows``
            if there is one, and needed if there is none.
        bias (Tensor): For each of ``grid.counts``, (groups, num_heads, N, N).
        grid (WindowGrid): The windows.
        scale (float): Factor of the logits.

    Returns:
        Tensor: (T, C), without the padding.
    """
    windows = to_windows(rows.flatten(1), grid)  # (W, N, 3 * C)
    parts = windows.unflatten(2, rows.shape[1:]).permute(2, 0, 3, 1, 4)
    query, *linear, value = parts  # each (W, num_heads, N, head_dims)
    keys = linear if key is None else [*linear, split_heads(key, rows.shape[2])]
    key = keys[0] if len(keys) == 1 else keys[0] + keys[1]
    groups = zip(*(part.split(list(grid.counts)) for part in (query, key, value)))
    outs = [
        fused_attention(*group, aligned(mask)[None], scale)
        for group, mask in zip(groups, bias)
    ]
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    return from_windows(out.transpose(1, 2).flatten(2), grid)  # of (W, N, C)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
) -> Tensor:
    """softmax(scale q k^T + bias) v by PyTorch's fused operator.

    Args:
        query (Tensor): (W, num_heads, N, head_dims).
        key (Tensor): As the query.
        value (Tensor): As the query.
        bias (Tensor): Broadcast to (W, num_heads, N, N).
        scale (float): Factor of the logits.

    Returns:
        Tensor: (W, num_heads, N, head_dims).
    """

    def fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale
        )

    def products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        return softmax_attention(query, key, value, bias, scale)

    if is_traced():
        return fused(query, key, value, bias)
    return once_by_operator(fused, products, query, key, value, bias)


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
) -> Tensor:
    """As :func:`fused_attention`, by softmax and its two products."""
    logits = (query * scale) @ key.transpose(2, 3) + bias
    return logits.softmax(dim=-1) @ value


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(w, N, num_heads * head_dims) as (w, num_heads, N, head_dims)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def aligned(bias: Tensor) -> Tensor:
    """The bias with rows that start at multiples of 8, as fused CUDA kernels want."""
    length = bias.shape[-1]
    if bias.device.type != 'cuda' or length % 8 == 0:
        return bias
    return F.pad(bias, (0, -length % 8))[..., :length]


class GridAttention(Function):
    """As :func:`attend_by_groups`, keeping ``rows`` and ``key`` alone.

    Rows of head_dims are gathered straight into the order that the products want, and
    from the order in which they come out.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        rows: Tensor,
        key: Tensor | None,
        bias: Tensor,
        grid: WindowGrid,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(rows, key, bias)
        ctx.num_inputs, ctx.settings = 3, (grid, scale)
        outs = like_windows(rows[:, :1], grid)
        for group, piece in window_pieces(grid, bias):
            q, k, v = gather(rows, key, grid, piece)
            weights = attention_weights(q, k, bias[group], scale)
            product(weights, v, out=outs[0, piece])
        out = rows.new_empty(len(grid.places), rows[0, 0].numel())
        return from_heads(outs, grid, out)

    @by_hand(attend_by_groups)
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, key, bias = ctx.saved_tensors
        grid, scale = ctx.settings
        grad = pad_tokens(grad, grid).view_as(rows[:, :1])  # none of the padding
        grads = like_windows(rows, grid)  # (3 or 2, W, num_heads, N, head_dims)
        grad_key = None if key is None else torch.empty_like(key)
        grad_bias = torch.zeros_like(bias)
        for group, piece in window_pieces(grid, bias):
            q, k, v = gather(rows, key, grid, piece)
            g = heads_of_part(grad, 0, grid.tokens[piece])
            weights = attention_weights(q, k, bias[group], scale)
            product(weights.transpose(2, 3), g, out=grads[-1, piece])
            inner = softmax_backward(g @ v.transpose(2, 3), weights, 3, weights.dtype)
            grad_bias[group] += inner.sum(dim=0)
            inner.mul_(scale)
            product(inner, k, out=grads[0, piece])
            to_key = inner.transpose(2, 3) @ q
            if len(grads) == 3:
                grads[1, piece] = to_key
            if key is not None:
                split_heads(grad_key[piece], bias.shape[1]).copy_(to_key)
        grad_rows = torch.empty_like(rows)
        from_heads(grads, grid, out=grad_rows[: len(grid.places)])
        if grid.padded:
            window, place = (grid.tokens == len(grid.places)).nonzero(as_tuple=True)
            torch.sum(
                grads[:, window, :, place].flatten(1), dim=0, out=grad_rows[-1].view(-1)
            )
        return grad_rows, grad_key, grad_bias


def like_windows(rows: Tensor, grid: WindowGrid) -> Tensor:
    """Empty (parts, W, num_heads, N, head_dims) for rows (T, parts, num_heads, d)."""
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
