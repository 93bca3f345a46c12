"""Swin's window attention with a manifold key.

Swin: Liu et al., https://arxiv.org/abs/2103.14030, Section 3.2. The key: Meng et al.,
https://arxiv.org/abs/2402.00534. Only the key changes; relative position bias, shift
mask, scale and dropout stay as in the stock layer.
"""

from mmpretrain.models.utils import WindowMSA
from torch import Tensor

from ..arguments import positive_number, positive_pair
from ..keys import build_key
from .key_slot import KeySlot, check_attention
from .softmax import attention, grid_attention, join_heads
from .window_grid import WindowGrid, pad_tokens, to_windows


class ManifoldKeyWindowMSA(KeySlot, WindowMSA):
    """W-MSA whose key comes from a key module instead of a linear layer.

    See :class:`KeySlot` for what a key replaces.

    Args:
        embed_dims (int): Channels C.
        window_size (tuple[int, int]): Height and width of the window.
        num_heads (int): Attention heads.
        qkv_bias (bool): Bias on query, value and a linear key. Defaults to True.
        qk_scale (float, optional): Scale of the logits; ``None`` is
            ``(C / num_heads) ** -0.5``. Defaults to None.
        attn_drop (float): Dropout of the attention weights. Defaults to 0.
        proj_drop (float): Dropout of the output. Defaults to 0.
        key (dict, optional): Config of the key, see :func:`mmmanikey.keys.build_key`;
            ``None`` is the stock linear key. Defaults to None.
        key_residual (bool): Add the key to the stock key. Defaults to False.
        init_cfg (dict, optional): Initialisation config. Defaults to None.

    Raises:
        ValueError: If the key's window is not the attention's, the key is unknown, or
            an argument is out of range.
        TypeError: If an argument is of another kind.
    """

    def __init__(
        self,
        embed_dims: int,
        window_size: tuple[int, int],
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        key: dict | None = None,
        key_residual: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        check_attention(
            embed_dims, num_heads, attn_drop, proj_drop, qkv_bias, key_residual
        )
        if qk_scale is not None:
            positive_number('qk_scale', qk_scale)
        window_size = positive_pair('window_size', window_size)
        super().__init__(
            embed_dims,
            window_size,
            num_heads,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            init_cfg=init_cfg,
        )
        if key is not None:
            key = build_key(key, embed_dims, window_size=window_size)
            key_window = tuple(getattr(key, 'window_size', window_size))
            if key_window != window_size:
                raise ValueError(
                    f'the window of the key {key_window} must be the window of the '
                    f'attention {window_size}; leave it out of the key config'
                )
        self.insert_key(key, key_residual)

    def position_bias(self) -> Tensor:
        """Relative position bias, (num_heads, N, N)."""
        num_tokens = self.window_size[0] * self.window_size[1]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return bias.view(num_tokens, num_tokens, -1).permute(2, 0, 1)

    def forward(self, x: Tensor, mask: Tensor | WindowGrid | None = None) -> Tensor:
        """Attend within windows.

        Args:
            x (Tensor): Tokens of the windows one after the other, as for the stock
                layer, (B * num_windows, N, C); or those of the grids, (B, h * w, C).
            mask (Tensor | WindowGrid, optional): Of windows, (num_windows, N, N), 0
                where two tokens may see each other and strongly negative elsewhere. Of
                grids, their windows.

        Returns:
            Tensor: As ``x``.
        """
        if isinstance(mask, WindowGrid):
            return self.attend(x, mask)
        query, key, value = self.project(x)  # (B * num_windows, num_heads, N, d)
        bias = self.position_bias()[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        dropout = self.attn_drop.p if self.training else 0.0
        x = attention(query, key, value, bias, self.scale, dropout)
        return self.proj_drop(self.proj(join_heads(x)))

    def attend(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """Attend within the windows of a batch of grids.

        Args:
            x (Tensor): (B, h * w, C).
            grid (WindowGrid): Their windows.

        Returns:
            Tensor: (B, h * w, C).
        """
        tokens = pad_tokens(x.flatten(0, 1), grid)
        replaced = self.key is not None and not self.key_residual
        parts = self.qv(tokens) if replaced else self.qkv(tokens)
        key = None if self.key is None else self.key(to_windows(tokens, grid))
        bias = self.position_bias() + grid.masks[:, None]  # (groups, num_heads, N, N)
        dropout = self.attn_drop.p if self.training else 0.0
        out = grid_attention(parts, key, bias, grid, self.scale, dropout)
        return self.proj_drop(self.proj(out)).view_as(x)
