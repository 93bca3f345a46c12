"""Softmax attention in the windows of a batch of grids, piece by piece.

Query and value are projected in the order of the image, the padding as one more token.
Windows are gathered, and their logits computed, in pieces that stay in the cache; the
backward pass does so again, so that no logits are kept.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .pieces import pieces, sum_dtype
from .window_grid import WindowGrid, pad_tokens

softmax_backward = torch.ops.aten._softmax_backward_data


class GridAttention(NamedTuple):
    """softmax(scale q k^T + bias) v within windows, (T, C) without the padding.

    Rows of head_dims are gathered straight into the order that the products want, and
    from the order in which they come out.

    Args:
        rows (Tensor): Query, key and value of each of the T tokens, (T, 3, num_heads,
            head_dims), or only query and value, (T, 2, num_heads, head_dims). Where
            grids are padded, those of the padding follow as one more row.
        key (Tensor, optional): Key of the windows, (W, N, C), added to that in ``rows``
            if there is one, and needed if there is none.
        bias (Tensor): For each of ``grid.counts``, (groups, num_heads, N, N).
        grid (WindowGrid): The windows.
        scale (float): Factor of the logits.
    """

    rows: Tensor
    key: Tensor | None
    bias: Tensor
    grid: WindowGrid
    scale: float

    def plain(self) -> Tensor:
        rows, key, bias, grid, scale = self
        parts = rows[grid.tokens].permute(2, 0, 3, 1, 4)
        query, *keys, value = parts  # each (W, num_heads, N, head_dims)
        if key is not None:
            keys.append(split_heads(key, rows.shape[2]))
        logits = (query * scale) @ sum(keys).transpose(2, 3)
        weights = (logits + bias[grid.groups]).softmax(dim=-1)
        out = (weights @ value).transpose(1, 2)  # (W, N, num_heads, head_dims)
        return out.flatten(0, 1)[grid.places].flatten(1)

    def forward(self) -> Tensor:
        rows, _, _, grid, _ = self
        outs = like_windows(rows[:, :1], grid)
        for piece in self.window_pieces():
            q, k, v = self.gather(piece)
            product(self.weights(q, k, piece), v, out=outs[0, piece])
        out = rows.new_empty(len(grid.places), rows[0, 0].numel())
        return from_heads(outs, grid, out)

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        rows, key, bias, grid, scale = self
        grad = pad_tokens(grad, grid).view_as(rows[:, :1])  # none of the padding
        grads = like_windows(rows, grid)  # (3 or 2, W, num_heads, N, head_dims)
        grad_key = None if key is None else torch.empty_like(key)
        grad_bias = torch.zeros_like(bias, dtype=sum_dtype(bias))
        for piece in self.window_pieces():
            q, k, v = self.gather(piece)
            (g,) = heads_of_tokens(grad, grid.tokens[piece])
            weights = self.weights(q, k, piece)
            product(weights.transpose(2, 3), g, out=grads[-1, piece])
            inner = softmax_backward(g @ v.transpose(2, 3), weights, 3, weights.dtype)
            for group, part in self.groups(piece):
                grad_bias[group] += inner[part].sum(dim=0)
            product(inner, k, out=grads[0, piece])
            grads[0, piece].mul_(scale)
            to_key = grads[1, piece] if len(grads) == 3 else torch.empty_like(q)
            product(inner.transpose(2, 3), q, out=to_key)
            if key is not None:
                split_heads(grad_key[piece], bias.shape[1]).copy_(to_key)
        grad_rows = torch.empty_like(rows)
        from_heads(grads, grid, out=grad_rows[: len(grid.places)])
        if grid.padded:
            slots = grid.tokens.shape[1]
            of_padding = grads[:, grid.padding // slots, :, grid.padding % slots]
            torch.sum(of_padding.flatten(1), dim=0, out=grad_rows[-1].view(-1))
        return grad_rows, grad_key, grad_bias

    def gather(self, piece: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled query, key and value of some windows, (w, num_heads, N, head_dims)."""
        query, *keys, value = heads_of_tokens(self.rows, self.grid.tokens[piece])
        if self.key is not None:
            keys.append(split_heads(self.key[piece], self.rows.shape[2]))
        key = keys[0] if len(keys) == 1 else keys[0] + keys[1]
        return query.mul_(self.scale), key, value

    def weights(self, q: Tensor, k: Tensor, piece: slice) -> Tensor:
        """softmax(q k^T + bias) of some windows, (w, num_heads, N, N)."""
        logits = q @ k.transpose(2, 3)
        for group, part in self.groups(piece):
            logits[part].add_(self.bias[group])
        return torch.softmax(logits, dim=-1, out=logits)

    def window_pieces(self) -> list[slice]:
        """Windows whose logits fit a buffer."""
        bytes_each = self.bias[0].numel() * self.bias.element_size()
        return pieces(0, len(self.grid.tokens), bytes_each, self.bias.device)

    def groups(self, piece: slice) -> Iterator[tuple[int, slice]]:
        """The groups that a piece has windows of, and which of the piece these are."""
        end = 0
        for group, count in enumerate(self.grid.counts):
            start, end = end, end + count
            if start < piece.stop and piece.start < end:
                first, last = max(start, piece.start), min(end, piece.stop)
                yield group, slice(first - piece.start, last - piece.start)


def like_windows(rows: Tensor, grid: WindowGrid) -> Tensor:
    """Empty (parts, W, num_heads, N, head_dims) for rows (T, parts, num_heads, d)."""
    _, parts, heads, dims = rows.shape
    windows, tokens = grid.tokens.shape
    return rows.new_empty(parts, windows, heads, tokens, dims)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(w, N, num_heads * head_dims) as (w, num_heads, N, head_dims)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def heads_of_tokens(rows: Tensor, tokens: Tensor) -> Tensor:
    """Rows (T, parts, num_heads, d) of tokens (w, N), (parts, w, num_heads, N, d)."""
    _, parts, heads, dims = rows.shape
    head = torch.arange(parts * heads, device=rows.device).view(parts, 1, heads, 1)
    index = tokens[:, None] * (parts * heads) + head  # (parts, w, num_heads, N)
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
