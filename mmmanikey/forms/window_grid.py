"""Which token is in which slot of Swin's shifted windows, and which mask they need.

Swin pads the grid, rolls it and cuts it into windows: three copies, and three more on
the way back (Liu et al., https://arxiv.org/abs/2103.14030, Section 3.2). All of it is
one permutation of the tokens. And of all windows only the last row and column hold
tokens from opposite edges: sorted by that, four masks serve every window.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from ..keys.windows import window_masks
from .position_bias import aligned


class WindowGrid(NamedTuple):
    """Windows of a batch of grids, those with the same mask in a row.

    Args:
        batch (int): Grids B.
        places (Tensor): places[t] is the slot of token t of the batch, counted over
            the slots of all windows, (B * h * w), int64.
        tokens (Tensor): tokens[w, n] is the index of the token in slot n of window w;
            B * h * w marks padding, (num_windows, N), int64.
        padding (Tensor): The slots of the padding, counted like ``places``, int64.
        counts (tuple[int, ...]): How many windows in a row share a mask.
        groups (Tensor): Which mask each window has, (num_windows), int64.
        masks (Tensor): These masks, (len(counts), N, A) with :func:`aligned` rows, 0 or
            strongly negative.
    """

    batch: int
    places: Tensor
    tokens: Tensor
    padding: Tensor
    counts: tuple[int, ...]
    groups: Tensor
    masks: Tensor

    @property
    def padded(self) -> bool:
        """Whether any window holds padding."""
        return self.tokens.numel() > len(self.places)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # tensors of inference mode could not train later
@torch.no_grad()
def window_grid(
    batch: int,
    height: int,
    width: int,
    window: int,
    shift: int,
    device: torch.device,
    dtype: torch.dtype,
) -> WindowGrid:
    """The windows of a batch of grids, from a small cache of recent sizes.

    Args:
        batch (int): Images B.
        height (int): Rows of tokens, h.
        width (int): Columns of tokens, w.
        window (int): Side of a window; the grid is padded at the right and bottom.
        shift (int): Shift to the right and bottom, less than ``window``.
        device (torch.device): Of the tensors.
        dtype (torch.dtype): Of the masks.
    """
    rows, cols = -(-height // window), -(-width // window)
    y = shifted(height, rows * window, shift, device)[:, None]
    x = shifted(width, cols * window, shift, device)[None]
    down, across = y // window, x // window
    # interior windows first, then the last row, the last column and the corner
    if shift:
        last_row, last_col = down == rows - 1, across == cols - 1
        inside = down * (cols - 1) + across
        below = (rows - 1) * (cols - 1) + across
        right = rows * (cols - 1) + down
        number = torch.where(last_col, right, torch.where(last_row, below, inside))
        counts = ((rows - 1) * (cols - 1), cols - 1, rows - 1, 1)
    else:
        number = down * cols + across
        counts = (rows * cols,)
    token = y % window * window + x % window  # (h, w), within the window
    image = torch.arange(batch, device=device)[:, None, None]
    places = ((number * batch + image) * window**2 + token).flatten()  # (B * h * w)
    tokens = places.new_full((batch * rows * cols * window**2,), len(places))
    tokens[places] = torch.arange(len(places), device=device)
    used = [i for i, count in enumerate(counts) if count]
    counts = tuple(batch * counts[i] for i in used)
    like = tokens.new_empty(0, dtype=dtype)
    each = window_masks(2 * window, 2 * window, window, shift, like)[[0, 2, 1, 3]]
    return WindowGrid(
        batch,
        places,
        tokens.view(-1, window**2),
        tokens.argsort()[len(places) :],
        counts,
        torch.cat([tokens.new_full((many,), i) for i, many in enumerate(counts)]),
        aligned(each[used]),
    )


def shifted(length: int, padded: int, shift: int, device: torch.device) -> Tensor:
    """Where the tokens of one axis are after the padded axis was rolled by -shift."""
    return (torch.arange(length, device=device) - shift) % padded


def pad_tokens(tokens: Tensor, grid: WindowGrid) -> Tensor:
    """Tokens (B * h * w, C), followed by one of zeros where the grid is padded."""
    return F.pad(tokens, (0, 0, 0, 1)) if grid.padded else tokens


def to_windows(tokens: Tensor, grid: WindowGrid) -> Tensor:
    """Tokens of a batch of grids (B * h * w, C) as windows (W, N, C); zeros pad."""
    return moved(tokens, grid, into_windows=True)


def from_windows(windows: Tensor, grid: WindowGrid) -> Tensor:
    """Undo :func:`to_windows`."""
    return moved(windows, grid, into_windows=False)


def moved(x: Tensor, grid: WindowGrid, into_windows: bool) -> Tensor:
    """One of both ways."""
    if torch.is_grad_enabled():
        return Moved.apply(x, grid, into_windows)
    return gathered(x, grid, into_windows)


def gathered(x: Tensor, grid: WindowGrid, into_windows: bool = True) -> Tensor:
    """As :func:`moved`, without a derivative."""
    if not into_windows:
        return x.reshape(-1, x.shape[-1]).index_select(0, grid.places)
    rows = pad_tokens(x, grid).index_select(0, grid.tokens.flatten())
    return rows.view(*grid.tokens.shape, x.shape[1])


class Moved(Function):
    """Tokens into windows or back; the gradient goes the other way and needs none.

    Each token has one place, where PyTorch's backward pass of an index would add up.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, grid: WindowGrid, into_windows: bool
    ) -> Tensor:
        ctx.way = grid, not into_windows
        return gathered(x, grid, into_windows)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return moved(grad, *ctx.way), None, None
