"""Swin's window attention with a manifold key, and its shifted windows.

Swin: Liu et al., https://arxiv.org/abs/2103.14030, Section 3.2. The key: Meng et al.,
https://arxiv.org/abs/2402.00534. Only the key changes; relative position bias, shift
mask, scale and dropout are those of the stock layers.

Height and width may be symbols of an exporter: no step here looks at them.
"""

from collections.abc import Iterator

import torch
from mmpretrain.models.utils import ShiftWindowMSA, WindowMSA
from torch import Tensor

from .. import forms
from ..arguments import positive_number, positive_pair
from ..grids import FLOATS, unknown_grid, window_side
from ..keys.windows import as_grid, check_grid, cut_windows, join_windows, window_masks
from ..resize import resize_relative_position_bias_table
from .slot import KeySlot, join_heads


class ManifoldKeyWindowMSA(KeySlot, WindowMSA):
    """W-MSA whose key comes from a key module instead of a linear layer.

    Made of a stock layer by :meth:`adopt`; see :class:`KeySlot` for what a key
    replaces.
    """

    stock_class = WindowMSA

    @classmethod
    def adopt(cls, stock: WindowMSA, key: dict | None = None) -> 'ManifoldKeyWindowMSA':
        """Make a stock layer one of this class, in place.

        Args:
            stock (WindowMSA): mmpretrain's layer.
            key (dict, optional): Config of the key, see
                :func:`mmmanikey.keys.build_key`; ``None`` is the stock linear key.
                Defaults to None.

        Raises:
            ValueError: If the key's window is not the attention's, the key is unknown,
                or an argument is out of range.
            TypeError: If an argument is of another kind.
        """
        self = super().adopt(stock)
        positive_number('qk_scale', self.scale)
        window_size = tuple(self.window_size)
        self.insert_key(key, window_size)
        key_window = getattr(self.key, 'window_size', window_size)
        key_window = positive_pair('window_size', key_window)
        if key_window != window_size:
            raise ValueError(
                f'the window of the key {key_window} must be the window of the '
                f'attention {window_size}; leave it out of the key config'
            )
        return self

    def adapt_tables(
        self, weights: dict[str, Tensor], prefix: str
    ) -> Iterator[tuple[str, str]]:
        """Resize the bias table of another window, which in Swin is a square one."""
        name = 'relative_position_bias_table'
        own, table = getattr(self, name), weights.get(prefix + name)
        if table is None or table.dim() != 2 or table.dtype not in FLOATS:
            return
        rows, heads = table.shape
        if rows == len(own) or heads != own.shape[1]:
            return
        side = window_side(table)
        if side is None:
            yield name, unknown_grid(rows, 'window_size', tuple(self.window_size))
            return
        weights[prefix + name] = resize_relative_position_bias_table(
            table, (side, side), self.window_size
        )
        weights[f'{prefix}relative_position_index'] = self.relative_position_index
        yield name, ''

    def position_bias(self) -> Tensor:
        """Relative position bias, (num_heads, N, N)."""
        num_tokens = self.window_size[0] * self.window_size[1]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return bias.view(num_tokens, num_tokens, -1).permute(2, 0, 1)

    def logits(self, query: Tensor, key: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """What softmax takes where there is no mask, (B, num_heads, N, N)."""
        return (query * self.scale) @ key.transpose(2, 3) + self.position_bias()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within windows.

        Args:
            x (Tensor): Tokens of the windows, (B * num_windows, N, C).
            mask (Tensor, optional): (num_windows, N, N), 0 where two tokens may see
                each other and strongly negative elsewhere.

        Returns:
            Tensor: (B * num_windows, N, C).
        """
        query, key, value = self.project(x)  # (B * num_windows, num_heads, N, d)
        bias = self.position_bias()[None]
        if mask is not None:  # (B * num_windows, num_heads, N, N)
            bias = (bias + mask[:, None]).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        logits = (query * self.scale) @ key.transpose(2, 3) + bias
        x = self.attn_drop(self.softmax(logits)) @ value
        return self.proj_drop(self.proj(join_heads(x)))


class ManifoldKeyShiftWindowMSA(ShiftWindowMSA):
    """Cuts the grid into shifted windows, attends within them, and joins them.

    Computes what the stock layer computes, with the same state dict, for any grid.
    """

    @classmethod
    def adopt(
        cls, stock: ShiftWindowMSA, key: dict | None = None
    ) -> 'ManifoldKeyShiftWindowMSA':
        """Make a stock layer one of this class, in place.

        Args:
            stock (ShiftWindowMSA): mmpretrain's layer.
            key (dict, optional): As for :meth:`ManifoldKeyWindowMSA.adopt`, which has
                the errors as well. Defaults to None.
        """
        if type(stock) is not ShiftWindowMSA:
            raise TypeError(f'expected a ShiftWindowMSA, got a {type(stock).__name__}')
        ManifoldKeyWindowMSA.adopt(stock.w_msa, key)
        stock.__class__ = cls
        return stock

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend within shifted windows.

        Args:
            query (Tensor): (B, h * w, C).
            hw_shape (tuple[int, int]): Height and width of the grid.

        Returns:
            Tensor: (B, h * w, C).

        Raises:
            ValueError: If the tokens do not fill the grid, or it is smaller than a
                window and small maps are not padded.
        """
        check_grid(query, hw_shape)
        window, shift = self.window_on(hw_shape)
        form = forms.find(self, query, hw_shape, shift)
        if form is not None:
            return self.drop(form(self, query, hw_shape, shift))
        windows = cut_windows(as_grid(query, hw_shape), window, shift)
        masks = None
        if self.shift_size:
            masks = window_masks(*hw_shape, self.window_size, shift, like=query)
        windows = self.w_msa(windows, masks)
        out = join_windows(windows, window, hw_shape, shift)
        return self.drop(out.flatten(1, 2))

    def window_on(
        self, hw_shape: tuple[int, int]
    ) -> tuple[tuple[int, int], int | Tensor]:
        """Height and width of a window on this grid, and the shift."""
        return (self.window_size, self.window_size), self.shift_for(*hw_shape)

    def shift_for(self, height: int, width: int) -> int | Tensor:
        """The shift on this grid; Swin's classifier does not shift a single window."""
        if self.pad_small_map:
            return self.shift_size
        if isinstance(height, Tensor):  # in a trace of torch.jit
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
