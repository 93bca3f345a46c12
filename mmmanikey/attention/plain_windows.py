"""Swin's shift masks for every window, for exporters.

The permutation of :mod:`.window_grid` is computed from the size of a batch. An exported
network takes other sizes: it pads, rolls and cuts as Swin's own code does (Liu et al.,
https://arxiv.org/abs/2103.14030, Section 3.2), and gets its masks from here.
"""

import torch
from torch import Tensor

from ..keys.windows import windows_along
from .window_grid import edge_masks


def window_masks(
    height: int, width: int, window: int, shift: int | Tensor, like: Tensor
) -> Tensor:
    """The mask of each window of a padded and rolled grid, in the order of cutting.

    Args:
        height (int): Rows of tokens, or a symbol of an exporter.
        width (int): Columns of tokens, likewise.
        window (int): Side of a window.
        shift (int | Tensor): Less than ``window``.
        like (Tensor): A tensor of the device and dtype wanted.

    Returns:
        Tensor: (num_windows, N, N), 0 or :data:`.window_grid.MASKED`.
    """
    rows, cols = windows_along(height, window), windows_along(width, window)
    last_row = torch.arange(rows, device=like.device) == rows - 1
    last_col = torch.arange(cols, device=like.device) == cols - 1
    kind = last_row.long()[:, None] + 2 * last_col.long()
    return edge_masks(window, shift, like.device, like.dtype)[kind.flatten()]
