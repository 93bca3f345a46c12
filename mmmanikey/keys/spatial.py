"""Charts over tokens: SpatialK.

The paper (https://arxiv.org/abs/2402.00534) names the strategy and reports it as the
best one for Swin. That a chart is a group-wise convolution over the tokens of a window,
as in Swin-MLP's spatial MLP (https://github.com/microsoft/Swin-Transformer), is our
reading.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import positive_pair
from ..grids import tell_grid, told_grid
from ..registry import KEYS
from . import kernels
from .base import ManifoldKey
from .kernels.common import is_exported
from .resize import resize_token_mixing
from .windows import as_grid, cut_windows, join_windows


@KEYS.register_module()
class SpatialK(ManifoldKey):
    """Each chart mixes the tokens of a window; the charts are averaged and projected.

    .. code-block:: text

        k = out(mean_h GELU(T_h (s_h * x) + b_h))

    T_h, (N, N), acts on the N tokens of one window, the same for every channel; its
    bias b_h has one entry per token. ``conv1`` holds all T_h as one group-wise
    convolution whose channels are tokens, and ``out`` is one linear layer without bias
    (see :class:`VanillaK`). The scale acts on channels and T_h on tokens, so they
    commute: s_h * (T_h x) needs no scaled copies of x.

    A grid larger than the window is cut into windows, padded with zeros at the right
    and bottom and cropped after. Tokens before the grid (a class token) are not mixed;
    their chart is GELU(s_h * x). In Swin's shifted windows a border window holds tokens
    from opposite edges of the image, and the mixing sees the window as it is; override
    :meth:`mix_tokens` to do otherwise.

    Cost per token: H N C + C^2 multiply-accumulates.

    Args:
        embed_dims (int): Channels C.
        num_charts (int): Charts H. Defaults to 8.
        window_size (int | tuple[int, int], optional): Height and width of the window,
            in tokens. Inside an attention layer it is the layer's own.
        act_cfg (dict, optional): Activation of the charts; ``None`` makes them linear.
            Defaults to ``dict(type='GELU')``.
        triton (bool): Whether to use the Triton kernels where they apply, see
            :func:`mmmanikey.keys.kernels.triton_applies`. Defaults to True.

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
    ) -> None:
        super().__init__(embed_dims, num_charts, act_cfg)
        if not isinstance(triton, bool):
            raise TypeError(f'triton must be True or False, got {triton!r}')
        self.triton = triton
        if window_size is None:
            raise ValueError(
                'SpatialK mixes the tokens of a window and needs window_size'
            )
        self.window_size = positive_pair('window_size', window_size)
        self.num_tokens = self.window_size[0] * self.window_size[1]
        self.conv1 = nn.Conv1d(
            num_charts * self.num_tokens,
            num_charts * self.num_tokens,
            kernel_size=1,
            groups=num_charts,
        )
        self.out = nn.Linear(embed_dims, embed_dims, bias=False)
        tell_grid(self, 'window_size')
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        # unit-normal tokens give unit-normal pre-activations
        nn.init.trunc_normal_(self.conv1.weight, std=self.num_tokens**-0.5)
        nn.init.zeros_(self.conv1.bias)
        std = self.last_layer_std(self.embed_dims)
        nn.init.trunc_normal_(self.out.weight, std=std)

    def zero_last_layer(self) -> None:
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        return self.out(self.features(x, hw_shape))

    def features(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        """Mean of the charts, which ``out`` makes the key of, (B, N, C)."""
        return self.over_windows(self.mix_tokens, x, hw_shape)

    def reference_forward(
        self, x: Tensor, hw_shape: tuple[int, int] | None = None
    ) -> Tensor:
        return self.out(self.over_windows(self.reference_mix_tokens, x, hw_shape))

    def mix_tokens(self, x: Tensor) -> Tensor:
        """Mean of the charts of whole windows, (B, N, C) -> (B, N, C)."""
        if kernels.applies(self.act, x):
            return kernels.mix_windows(
                x,
                self.conv1.weight,
                self.conv1.bias,
                self.scale,
                self.act.approximate,
                self.triton,
            )
        mixing = self.conv1.weight.view(self.num_charts, self.num_tokens, -1)
        bias = self.conv1.bias.view(self.num_charts, self.num_tokens, 1)
        total = 0
        for chart in range(self.num_charts):  # one chart's activations at a time
            if is_exported():
                # a batched product would fix the batch, and counters of FLOPs do not
                # know one that broadcasts
                mixed = F.conv1d(x, mixing[chart, ..., None])  # (B, N, C)
            else:
                mixed = mixing[chart] @ x
            total = total + self.act(mixed * self.scale[chart] + bias[chart])
        return total / self.num_charts

    def reference_mix_tokens(self, x: Tensor) -> Tensor:
        """The same by expansion and group-wise convolution."""
        return self.reference_charts(x).mean(dim=1)

    def reference_charts(self, x: Tensor) -> Tensor:
        """The charts of whole windows before fusion, (B, H, N, C)."""
        charts = self.scale[:, None] * x[:, None]  # (B, H, N, C)
        charts = self.act(self.conv1(charts.flatten(1, 2)))  # (B, H*N, C)
        return charts.unflatten(1, (self.num_charts, -1))

    def over_windows(
        self,
        mix: Callable[[Tensor], Tensor],
        x: Tensor,
        hw_shape: tuple[int, int] | None,
    ) -> Tensor:
        """Apply ``mix`` to every window of the grid and average the rest chart-wise.

        Args:
            mix (Callable): :meth:`mix_tokens` or its reference.
            x (Tensor): (B, N, C); N is one window, or extra tokens then a grid.
            hw_shape (tuple[int, int], optional): Height and width of the grid. Without
                it N must be one window.

        Returns:
            Tensor: (B, N, C).

        Raises:
            ValueError: If N does not fit.
        """
        self.check_tokens(x)
        if hw_shape is None:
            if x.shape[1] != self.num_tokens:
                raise ValueError(
                    f'SpatialK of window {self.window_size} takes {self.num_tokens} '
                    f'tokens, or hw_shape with a larger grid; got {x.shape[1]} tokens'
                )
            return mix(x)

        height, width = hw_shape
        num_extra = x.shape[1] - height * width
        if isinstance(num_extra, Tensor):  # the same for every size
            num_extra = int(num_extra)
        if num_extra < 0:
            raise ValueError(
                f'{x.shape[1]} tokens do not fill the grid of hw_shape {hw_shape}'
            )
        extra, grid = x[:, :num_extra], x[:, num_extra:]
        windows = mix(cut_windows(as_grid(grid, hw_shape), self.window_size))
        grid = join_windows(windows, self.window_size, hw_shape).flatten(1, 2)
        if num_extra == 0:
            return grid
        charts = self.act(self.scale[:, None] * extra[:, None])  # (B, H, num_extra, C)
        return torch.cat([charts.mean(dim=1), grid], dim=1)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args, **kwargs
    ) -> None:
        """Resize the token mixing of a checkpoint of another window."""
        told = told_grid(local_metadata)
        names = f'{prefix}conv1.weight', f'{prefix}conv1.bias'
        if all(name in state_dict for name in names):
            weight, bias = (state_dict[name] for name in names)
            fits = weight.shape == self.conv1.weight.shape
            if not fits or told not in (None, self.window_size):
                state_dict[names[0]], state_dict[names[1]] = resize_token_mixing(
                    weight, bias, self.num_charts, self.window_size, told
                )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, *args, **kwargs
        )
