"""SpatialK: charts over the tokens of a window.

The paper (https://arxiv.org/abs/2402.00534) names the strategy and reports it as the
best one for Swin. That a chart is a group-wise convolution over the tokens of a window,
as in Swin-MLP's spatial MLP (https://github.com/microsoft/Swin-Transformer), is our
reading.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..arguments import positive_pair, switch
from ..grids import FLOATS, Grid, OnGrid, source_grid, tell_grid, unknown_grid
from ..registry import KEYS
from ..resize import resize_token_mixing
from .key import ManifoldKey, grouped_conv
from .windows import as_grid, cut_windows, join_windows


@KEYS.register_module()
class SpatialK(OnGrid, ManifoldKey):
    """Each chart mixes the tokens of a window; the charts are averaged and projected.

    .. code-block:: text

        k = out(mean_h GELU(T_h (s_h * x) + b_h))

    T_h, (N, N), acts on the N tokens of one window, the same for every channel; its
    bias b_h has one entry per token. ``conv1`` holds all T_h as one group-wise
    convolution whose channels are tokens, and ``out`` is one linear layer without bias
    (see :class:`VanillaK`).

    A grid larger than the window is cut into windows, padded with zeros at the right
    and bottom and cropped after. Tokens before the grid (a class token) are not mixed;
    their chart is GELU(s_h * x). In Swin's shifted windows a border window holds tokens
    from opposite edges of the image, and the mixing sees the window as it is; override
    :meth:`mix` to do otherwise.

    Cost per token: H N C + C^2 multiply-accumulates.

    Args:
        embed_dims (int): Channels C.
        num_charts (int): Charts H. Defaults to 8.
        window_size (int | tuple[int, int], optional): Height and width of the window,
            in tokens. Inside an attention layer it is the layer's own.
        act_cfg (dict, optional): Activation of the charts; ``None`` makes them linear.
            Defaults to ``dict(type='GELU')``.
        triton (bool): Whether to use the Triton kernels where they apply, see
            ``mmmanikey/forms/triton_choice.py``. Defaults to True.
        out_dims (int, optional): Channels of the key, those of ``out``. Defaults to
            ``None``, C.

    Raises:
        ValueError: If ``window_size`` is missing or an argument is out of range.
        TypeError: If ``triton`` is no bool.
    """

    needs_window = True

    def __init__(
        self,
        embed_dims: int,
        num_charts: int = 8,
        window_size: int | tuple[int, int] | None = None,
        act_cfg: dict | None = dict(type='GELU'),  # noqa: B006
        triton: bool = True,
        out_dims: int | None = None,
    ) -> None:
        super().__init__(embed_dims, num_charts, act_cfg, out_dims)
        self.triton = switch('triton', triton)
        if window_size is None:
            raise ValueError(
                'SpatialK mixes the tokens of a window and needs window_size'
            )
        self.window_size = positive_pair('window_size', window_size)
        self.num_tokens = self.window_size[0] * self.window_size[1]
        self.conv1 = grouped_conv(num_charts, self.num_tokens, self.num_tokens)
        self.out = nn.Linear(embed_dims, self.out_dims, bias=False)
        tell_grid(self, 'window_size')
        self.reset_parameters()

    def charts(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        extra, windows = self.split(x, hw_shape)
        z = self.mix(windows)  # (num_windows, H, N, C)
        of_extra = self.act(self.expand(extra))  # (B, H, num_extra, C)
        return torch.cat([of_extra, self.join(z, hw_shape)], dim=2)

    def mix(self, x: Tensor) -> Tensor:
        """The charts of whole windows (W, N, C), (W, H, N, C)."""
        u = self.expand(x).flatten(1, 2)  # (W, H * N, C)
        return self.act(self.conv1(u)).unflatten(1, (self.num_charts, -1))

    def fuse(self, z: Tensor, x: Tensor) -> Tensor:
        return self.out(z.mean(dim=1))

    def split(
        self, x: Tensor, hw_shape: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) as extra ones (B, num_extra, C) and windows (W, M, C).

        Raises:
            ValueError: If N is neither one window nor fills the grid of ``hw_shape``.
        """
        if hw_shape is None:
            if x.shape[1] != self.num_tokens:
                raise ValueError(
                    f'SpatialK of window {self.window_size} takes {self.num_tokens} '
                    f'tokens, or hw_shape with a larger grid; got {x.shape[1]} tokens'
                )
            return x[:, :0], x
        num_extra = x.shape[1] - hw_shape[0] * hw_shape[1]
        if isinstance(num_extra, Tensor):  # in a trace, where it is always the same
            num_extra = int(num_extra)
        if num_extra < 0:
            raise ValueError(
                f'{x.shape[1]} tokens do not fill the grid of hw_shape {hw_shape}'
            )
        grid = as_grid(x[:, num_extra:], hw_shape)
        return x[:, :num_extra], cut_windows(grid, self.window_size)

    def join(self, z: Tensor, hw_shape: tuple[int, int] | None) -> Tensor:
        """Charts of windows (W, H, M, C) as those of the grid, (B, H, h * w, C)."""
        if hw_shape is None:
            return z
        charts = z.shape[1]
        z = z.transpose(1, 2).flatten(2)  # (W, M, H * C)
        z = join_windows(z, self.window_size, hw_shape)  # (B, h, w, H * C)
        return z.flatten(1, 2).unflatten(2, (charts, -1)).transpose(1, 2)

    def adapt(
        self, weights: dict[str, Tensor], prefix: str, told: Grid | None
    ) -> Iterator[tuple[str, str]]:
        """Resize the token mixing of another window."""
        names = 'conv1.weight', 'conv1.bias'
        weight, bias = (weights.get(prefix + name) for name in names)
        if weight is None or bias is None or weight.dtype not in FLOATS:
            return
        fits = weight.shape == self.conv1.weight.shape
        if weight.dim() != 3 or (fits and told in (None, self.window_size)):
            return
        rows, tokens, kernel = weight.shape
        whole = tokens and rows % tokens == 0 and kernel == 1
        if not whole or bias.shape != (rows,) or bias.dtype != weight.dtype:
            return
        found = source_grid(tokens, (0,), self.window_size, told)
        if rows // tokens != self.num_charts:
            why = (
                f'has {rows // tokens} charts and the key {self.num_charts}; charts '
                "cannot be resized, set num_charts to the checkpoint's"
            )
        elif found is None:
            why = unknown_grid(tokens, 'window_size', self.window_size)
        else:
            why = ''
            mixing = resize_token_mixing(weight, bias, found[0], self.window_size)
            weights.update(zip((prefix + name for name in names), mixing))
        yield from ((name, why) for name in names)
