"""Swin's shifted window attention around our attention layer.

Liu et al., https://arxiv.org/abs/2103.14030, Section 3.2; padding of small maps as in
mmpretrain and mmdet.
"""

import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils import ShiftWindowMSA
from torch import Tensor

from ..keys.kernels.common import is_exported
from ..keys.windows import as_grid, cut_windows, join_windows
from .plain_windows import window_masks
from .window import ManifoldKeyWindowMSA
from .window_grid import window_grid


class ManifoldKeyShiftWindowMSA(BaseModule):
    """Cuts the grid into shifted windows, attends within them, and joins them.

    Computes what mmpretrain's ``ShiftWindowMSA`` computes, with the same state dict.
    It moves each token once on the way in and once on the way out, and neither builds
    a mask for every window nor builds masks again at every call.

    Args:
        stock (ShiftWindowMSA): The layer whose settings, attention and drop path to
            take over. Its ``w_msa`` must be a :class:`ManifoldKeyWindowMSA`.

    Raises:
        TypeError: If it is another one.
    """

    def __init__(self, stock: ShiftWindowMSA) -> None:
        super().__init__()
        attention = getattr(stock, 'w_msa', stock)
        if not isinstance(attention, ManifoldKeyWindowMSA):
            raise TypeError(
                'the attention in shifted windows must be a ManifoldKeyWindowMSA, got '
                f'a {type(attention).__name__}'
            )
        self.window_size = stock.window_size
        self.shift_size = stock.shift_size
        self.pad_small_map = stock.pad_small_map
        self.w_msa = stock.w_msa
        self.drop = stock.drop

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend within shifted windows.

        Args:
            query (Tensor): (B, h * w, C).
            hw_shape (tuple[int, int]): Height and width of the grid.

        Returns:
            Tensor: (B, h * w, C).

        Raises:
            ValueError: If the grid is smaller than a window and small maps are not
                padded.
        """
        shift = self.shift_for(*hw_shape)
        if is_exported():
            return self.drop(self.attend_plainly(query, hw_shape, shift))
        grid = window_grid(len(query), *hw_shape, self.window_size, shift, like=query)
        return self.drop(self.w_msa(query, grid))

    def attend_plainly(
        self, query: Tensor, hw_shape: tuple[int, int], shift: int | Tensor
    ) -> Tensor:
        """The same for an exporter, whatever the batch and the grid."""
        window = (self.window_size, self.window_size)
        windows = cut_windows(as_grid(query, hw_shape), window, shift)
        masks = None
        if self.shift_size:
            masks = window_masks(*hw_shape, self.window_size, shift, like=query)
        windows = self.w_msa(windows, masks)
        return join_windows(windows, window, hw_shape, shift).flatten(1, 2)

    def shift_for(self, height: int, width: int) -> int | Tensor:
        """The shift on this grid; Swin's classifier does not shift a single window."""
        if self.pad_small_map:
            return self.shift_size
        if isinstance(height, Tensor):
            smaller = at_least(self.window_size, torch.minimum(height, width))
            return (smaller > self.window_size) * self.shift_size
        smaller = min(height, width)
        if smaller < self.window_size:
            raise ValueError(
                f'a feature map of {height} x {width} tokens is smaller than the '
                f'window of {self.window_size}; set pad_small_map=True or use larger '
                'images'
            )
        return 0 if smaller == self.window_size else self.shift_size


def at_least(least: int, length: Tensor) -> Tensor:
    """A traced length; the trace stops, in this reshape, where it is smaller."""
    first = torch.arange(length)[:least].reshape(least)
    return length + first[0]  # which is 0
