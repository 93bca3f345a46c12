"""ViT's attention with a manifold key, global or in windows.

ViT: Dosovitskiy et al., https://arxiv.org/abs/2010.11929. Windows and decomposed
relative positions: Li et al., *Exploring Plain Vision Transformer Backbones for Object
Detection*, Section 3, https://arxiv.org/abs/2203.16527. The key: Meng et al.,
https://arxiv.org/abs/2402.00534.
"""

from collections.abc import Iterator

import torch
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn

from .. import forms
from ..arguments import natural, positive_pair, rate
from ..forms.fused_attention import fused_attention
from ..grids import FLOATS
from ..keys.windows import as_grid, check_grid, cut_windows, join_windows
from ..resize import resize_relative_position
from .slot import Apply, KeySlot, called, join_heads

#: SpatialK's window where the config names none: the grid of 224 px at 16 px patches.
DEFAULT_KEY_WINDOW = (14, 14)


class ManifoldKeyAttention(KeySlot, MultiheadAttention):
    """Multi-head attention whose key comes from a key module.

    Made of a stock layer by :meth:`adopt`; see :class:`KeySlot` for what a key
    replaces. With ``window_size`` the tokens are cut into windows, padded with zeros at
    the right and bottom as in ViTDet, and attend within their window; a key of SpatialK
    sees these windows.
    """

    stock_class = MultiheadAttention

    @classmethod
    def adopt(
        cls,
        stock: MultiheadAttention,
        key: dict | None = None,
        window_size: int = 0,
        rel_pos_size: tuple[int, int] | None = None,
    ) -> 'ManifoldKeyAttention':
        """Make a stock layer one of this class, in place.

        Args:
            stock (MultiheadAttention): mmpretrain's layer.
            key (dict, optional): Config of the key, see
                :func:`mmmanikey.keys.build_key`; ``None`` is the stock linear key.
                SpatialK's window is 14 x 14 unless the config names another. Defaults
                to None.
            window_size (int): Side of the attention windows in tokens, 0 for global
                attention. Defaults to 0.
            rel_pos_size (tuple[int, int], optional): Grid whose decomposed relative
                positions are learned, zero at the start; ``None`` is without. Defaults
                to None.

        Raises:
            ValueError: If SpatialK's window does not divide the attention's window, or
                an argument is out of range.
            TypeError: If an argument is of another kind.
        """
        if stock.v_shortcut or stock.input_dims != stock.embed_dims:
            raise ValueError(
                'a layer with v_shortcut, or with other input_dims than embed_dims, '
                'cannot take a key'
            )
        natural('window_size', window_size)
        rate('attn_drop', stock.attn_drop)
        self = super().adopt(stock)
        self.window_size = window_size
        self.insert_key(key, DEFAULT_KEY_WINDOW)
        key_window = positive_pair(
            'window_size', getattr(self.key, 'window_size', (1, 1))
        )
        if any(window_size % side for side in key_window):
            raise ValueError(
                f'the window of the key {key_window} does not divide the '
                f'window of the attention {(window_size, window_size)}'
            )
        self.use_rel_pos = rel_pos_size is not None
        if self.use_rel_pos:
            height, width = positive_pair('rel_pos_size', rel_pos_size)
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * height - 1, self.head_dims))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * width - 1, self.head_dims))
        return self

    def adapt_tables(
        self, weights: dict[str, Tensor], prefix: str
    ) -> Iterator[tuple[str, str]]:
        """Resize relative positions of another window or image size."""
        for name in ('rel_pos_h', 'rel_pos_w') if self.use_rel_pos else ():
            own, table = getattr(self, name), weights.get(prefix + name)
            if table is None or table.dim() != 2 or table.dtype not in FLOATS:
                continue
            rows, dims = table.shape
            if rows != len(own) and rows % 2 and dims == own.shape[1]:
                weights[prefix + name] = resize_relative_position(table, len(own))
                yield name, ''

    def forward(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        """Attend globally or within windows.

        Args:
            x (Tensor): (B, N, C), extra tokens first, then the grid row by row.
            hw_shape (tuple[int, int], optional): Height and width of the grid, without
                which the layer is called as the stock one. Windows, relative positions
                and SpatialK need it. Defaults to None.

        Returns:
            Tensor: (B, N, C).
        """
        if self.window_size or self.use_rel_pos:
            check_grid(x, hw_shape)
        form = forms.find(self, x, hw_shape)
        x = self.attend(x, hw_shape) if form is None else form(self, x, hw_shape)
        return self.out_drop(self.gamma1(self.proj_drop(x)))

    def attend(
        self, x: Tensor, hw_shape: tuple[int, int], apply: Apply = called
    ) -> Tensor:
        """Attention, global or in windows, projected, (B, N, C)."""
        if self.window_size == 0:
            return self.attend_all(x, hw_shape, apply)
        window, _ = self.window_on(hw_shape)
        windows = self.attend_all(
            cut_windows(as_grid(x, hw_shape), window), window, apply
        )
        return join_windows(windows, window, hw_shape).flatten(1, 2)

    def attend_all(self, x: Tensor, hw_shape: tuple[int, int], apply: Apply) -> Tensor:
        """Attention over all N tokens, projected, (B, N, C)."""
        # each (B, num_heads, N, head_dims)
        query, key, value = self.project(x, hw_shape, apply)
        bias = self.position_bias(query, hw_shape) if self.use_rel_pos else None
        dropout = self.attn_drop if self.training else 0.0
        x = fused_attention(query, key, value, bias, self.head_dims**-0.5, dropout)
        return apply(self.proj, join_heads(x))

    def window_on(self, hw_shape: tuple[int, int]) -> tuple[tuple[int, int], int]:
        """Height and width of a window on this grid, and the shift, which is 0."""
        side = self.window_size
        return ((side, side) if side else tuple(hw_shape)), 0

    def logits(self, query: Tensor, key: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """What softmax takes, (B, num_heads, N, N)."""
        logits = (query * self.head_dims**-0.5) @ key.transpose(2, 3)
        return logits + (self.position_bias(query, hw_shape) if self.use_rel_pos else 0)

    def position_bias(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Decomposed relative positions, q R_h + q R_w, (B, num_heads, N, N)."""
        height, width = hw_shape
        grid = query.reshape(-1, self.num_heads, *hw_shape, self.head_dims)
        table_h = relative_table(self.rel_pos_h, height)
        table_w = relative_table(self.rel_pos_w, width)
        bias_h = torch.einsum('bnhwc,hkc->bnhwk', grid, table_h)
        bias_w = torch.einsum('bnhwc,wkc->bnhwk', grid, table_w)
        bias = bias_h[..., :, None] + bias_w[..., None, :]  # (B, heads, h, w, h, w)
        return bias.flatten(4, 5).flatten(2, 3)


def relative_table(rel_pos: Tensor, size: int) -> Tensor:
    """Embedding of every (query, key) offset on one axis, (size, size, head_dims)."""
    rel_pos = resize_relative_position(rel_pos, 2 * size - 1)
    coords = torch.arange(size, device=rel_pos.device)
    return rel_pos[coords[:, None] - coords[None] + size - 1]
