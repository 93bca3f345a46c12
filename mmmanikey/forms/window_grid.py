"""Where Swin's shifted windows take their tokens from, and which of them need a mask.

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

from ..attention.swin import edge_masks
from .gradients import by_hand


class WindowGrid(NamedTuple):
    """Windows of a batch of grids, those with the same mask in a row.

    Args:
        places (Tensor): places[t] is the slot of token t of the batch, counted over
            the slots of all windows, (B * h * w), int64.
        tokens (Tensor): tokens[w, n] is the index of the token in slot n of window w;
            B * h * w marks padding, (num_windows, N), int64.
        counts (tuple[int, ...]): How many windows in a row share a mask.
        masks (Tensor): These masks, (len(counts), N, N), 0 or strongly negative.
    """

    places: Tensor
    tokens: Tensor
    counts: tuple[int, ...]
    masks: Tensor

    @property
    def num_windows(self) -> int:
        """Windows of the batch, those of padding alone included."""
        return len(self.tokens)

    @property
    def padded(self) -> bool:
        """Whether any window holds padding."""
        return self.tokens.numel() > len(self.places)


def window_grid(
    batch: int, height: int, width: int, window: int, shift: int, like: Tensor
) -> WindowGrid:
    """The windows of a batch of grids, from a small cache of recent sizes.

    Args:
        batch (int): Images B.
        height (int): Rows of tokens, h.
        width (int): Columns of tokens, w.
        window (int): Side of a window; the grid is padded at the right and bottom.
        shift (int): Shift to the right and bottom, less than ``window``.
        like (Tensor): A tensor of the device and dtype wanted.
    """
    return make_grid(batch, height, width, window, shift, like.device, like.dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # tensors of inference mode could not train later
@torch.no_grad()
def make_grid(
    batch: int,
    height: int,
    width: int,
    window: int,
    shift: int,
    device: torch.device,
    dtype: torch.dtype,
) -> WindowGrid:
    """Compute what :func:`window_grid` returns."""
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
    num_windows = batch * rows * cols
    tokens = places.new_full((num_windows * window**2,), len(places))
    tokens[places] = torch.arange(len(places), device=device)
    masks = edge_masks(window, shift, device, dtype)
    used = [i for i, count in enumerate(counts) if count]
    return WindowGrid(
        places,
        tokens.view(num_windows, window**2),
        tuple(batch * counts[i] for i in used),
        masks[used],
    )


def shifted(length: int, padded: int, shift: int, device: torch.device) -> Tensor:
    """Where the tokens of one axis are after the padded axis was rolled by -shift."""
    return (torch.arange(length, device=device) - shift) % padded


def pad_tokens(tokens: Tensor, grid: WindowGrid) -> Tensor:
    """Tokens (B * h * w, C), followed by one of zeros where the grid is padded."""
    return F.pad(tokens, (0, 0, 0, 1)) if grid.padded else tokens


def to_windows(tokens: Tensor, grid: WindowGrid) -> Tensor:
    """Tokens of a batch of grids as windows.

    Args:
        tokens (Tensor): (B * h * w, C). Where the grid is padded, the token of the
            padding follows as one more row, see :func:`pad_tokens`.
        grid (WindowGrid): Its windows.

    Returns:
        Tensor: (num_windows, N, C).
    """
    return ToWindows.apply(tokens, grid)


def from_windows(windows: Tensor, grid: WindowGrid) -> Tensor:
    """Undo :func:`to_windows`, (B * h * w, C)."""
    return FromWindows.apply(windows, grid)


def plain_to_windows(tokens: Tensor, grid: WindowGrid) -> Tensor:
    """As :class:`ToWindows`, by PyTorch's operators."""
    return tokens[grid.tokens]


class ToWindows(Function):
    """See :func:`to_windows`.

    Every token but that of the padding has one place, so its gradient is no sum.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, grid: WindowGrid) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.num_inputs, ctx.settings = 1, (grid,)
        windows = tokens.index_select(0, grid.tokens.flatten())
        return windows.unflatten(0, grid.tokens.shape)

    @by_hand(plain_to_windows)
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor]:
        (grid,), grad = ctx.settings, grad.flatten(0, 1)
        length = len(grid.places)
        grad_tokens = grad.new_empty(length + grid.padded, grad.shape[1])
        torch.index_select(grad, 0, grid.places, out=grad_tokens[:length])
        if grid.padded:
            is_padding = (grid.tokens.flatten() == length).to(grad.dtype)
            torch.mv(grad.t(), is_padding, out=grad_tokens[-1])
        return (grad_tokens,)


def plain_from_windows(windows: Tensor, grid: WindowGrid) -> Tensor:
    """As :class:`FromWindows`, by PyTorch's operators."""
    return windows.flatten(0, 1)[grid.places]


class FromWindows(Function):
    """See :func:`from_windows`; its gradient is a copy and not a sum."""

    @staticmethod
    def forward(ctx: FunctionCtx, windows: Tensor, grid: WindowGrid) -> Tensor:
        ctx.save_for_backward(windows)
        ctx.num_inputs, ctx.settings = 1, (grid,)
        return windows.flatten(0, 1).index_select(0, grid.places)

    @by_hand(plain_from_windows)
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor]:
        (grid,) = ctx.settings
        windows = pad_tokens(grad, grid).index_select(0, grid.tokens.flatten())
        return (windows.unflatten(0, grid.tokens.shape),)
