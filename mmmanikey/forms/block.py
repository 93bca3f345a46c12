"""What a block of Swin computes, as one computation of which autograd sees the ends.

It normalises tokens and gathers them into windows, projects them, makes a SpatialK,
attends, and applies the feed-forward network, with all that is added on the way.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused_windows import FusedWindowAttention
from .gradients import gelu_gradient_to
from .norm import ResidualNorm, WindowNorm, plus, plus_to, scaled_to
from .position_bias import Pairs
from .token_mixing import TokenMixing
from .window_grid import WindowGrid


class Block(NamedTuple):
    """What a block computes of tokens, (B, h * w, C).

    Args:
        x (Tensor): What enters the block, (B, h * w, C).
        windows (Tensor, optional): The normalised tokens in windows, (W, N, C), where
            something outside of this makes a key of them; else this makes them.
        key (Tensor, optional): As of :class:`FusedWindowAttention`.
        weights (Tensor): Of the first norm, if this makes the windows; the table of
            :class:`PositionBias`; those of the projections of the attention, of the
            second norm, and of the feed-forward network, as PyTorch's layers have
            them; and where the key is a SpatialK that this computes as well, those of
            :class:`TokenMixing` and of its last layer.
        drop1 (Tensor, optional): Factor of what attention adds to each image, (B, 1,
            1), float32. ``None`` is ones.
        drop2 (Tensor, optional): As ``drop1``, of the feed-forward network.
        pairs (Pairs): As of :class:`PositionBias`.
        grid (WindowGrid): The windows.
        shifted (bool): As of :class:`PositionBias`.
        scale (float): Factor of the logits.
        eps1 (float): Of the first norm.
        eps2 (float): Of the second one.
        approximate (str): As in :class:`torch.nn.GELU`.
        dtype (torch.dtype): Of the products.
        keeps (bool): Whether there will be a backward pass.
        norms (tuple[type, type]): What computes :class:`WindowNorm` and
            :class:`ResidualNorm`.
        mixes (type[TokenMixing], optional): What computes a SpatialK, if this does.
        key_approximate (str): As in :class:`torch.nn.GELU`, of that key.
    """

    x: Tensor
    windows: Tensor | None
    key: Tensor | None
    norm1_weight: Tensor | None
    norm1_bias: Tensor | None
    table: Tensor
    project_weight: Tensor
    project_bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    norm2_weight: Tensor
    norm2_bias: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    mixing: Tensor | None
    mixing_bias: Tensor | None
    mixing_scale: Tensor | None
    key_weight: Tensor | None
    drop1: Tensor | None
    drop2: Tensor | None
    pairs: Pairs
    grid: WindowGrid
    shifted: bool
    scale: float
    eps1: float
    eps2: float
    approximate: str
    dtype: torch.dtype
    keeps: bool
    norms: tuple[type[WindowNorm], type[ResidualNorm]]
    mixes: type[TokenMixing] | None
    key_approximate: str

    def plain(self) -> Tensor:
        windows, key = self.windows, self.key
        if windows is None:
            windows = self.norm1().plain()
        rows = F.linear(windows, self.project_weight, self.project_bias)
        if self.mixes is not None:
            key = F.linear(self.charts(windows).plain(), self.key_weight)
        attended = self.attention(rows, key).plain()
        out = F.linear(attended, self.out_weight, self.out_bias)
        x, normed = self.norm2(self.x, out.flatten(0, 1)).plain()
        hidden = F.gelu(self.hidden(normed), approximate=self.approximate)
        return plus(x, F.linear(hidden, self.weight2, self.bias2), self.drop2)

    def forward(self) -> tuple[Tensor, ...]:
        out, *kept = self.attend()
        if not self.keeps:
            kept = ()  # its memory serves the hidden layer
        x, normed, *statistics = self.norm2(self.x, out).forward()
        entering = self.hidden(normed)
        hidden = F.gelu(entering, approximate=self.approximate)
        out = F.linear(hidden, self.weight2, self.bias2)
        return plus_to(x, out, self.drop2), x, normed, entering, *statistics, *kept

    def attend(self) -> tuple[Tensor, ...]:
        """What attention adds, in windows (W * N, C), and what its gradient takes."""
        made, mixed, windows, key = (None,) * 3, (None,) * 2, self.windows, self.key
        if windows is None:
            windows, *_ = made = self.norm1().forward()
        if self.mixes is not None:
            mean = self.charts(windows).forward()
            _, key = mixed = mean, F.linear(mean, self.key_weight)
        rows = F.linear(windows, self.project_weight, self.project_bias)
        attended, *kept = self.attention(rows, key).forward()
        out = F.linear(attended.flatten(0, 1), self.out_weight, self.out_bias)
        return out, *made, *mixed, rows, *kept

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...], *kept: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, normed, entering, *statistics2 = kept[:5]
        windows, *statistics1, mean, key, rows, attended = kept[5:12]
        if windows is None:
            windows, key = self.windows, self.key
        of_out = scaled_to(self.dtype, grad, self.drop2)
        hidden = F.gelu(entering, approximate=self.approximate)
        of_second = of_linear(of_out, hidden, needed[14:16])
        of_hidden = of_out.mm(self.weight2)
        gelu_gradient_to(
            of_hidden, entering, approximate=self.approximate, grad_input=of_hidden
        )
        of_first = of_linear(of_hidden, normed, needed[12:14])
        of_x, of_out, *of_norm2 = self.norm2(x).backward(
            grad, of_hidden.mm(self.weight1), (True, *needed[10:12]), *statistics2
        )
        of_out = of_out.flatten(0, 1)
        of_project_out = of_linear(of_out, attended.flatten(0, 1), needed[8:10])
        of_rows, of_key, of_table = self.attention(rows, key).backward(
            of_out.mm(self.out_weight).view_as(attended), (), *kept[11:]
        )
        of_rows = of_rows.flatten(2).flatten(0, 1)
        of_project = of_linear(of_rows, windows.flatten(0, 1), needed[6:8])
        of_windows = of_rows.mm(self.project_weight).view_as(windows)
        of_charts, of_norm1 = (), (None, None)
        if self.mixes is not None:
            of_key = of_key.flatten(0, 1)
            of_last, _ = of_linear(of_key, mean.flatten(0, 1), (needed[19], False))
            more, *of_charts = self.charts(windows).backward(
                of_key.mm(self.key_weight).view_as(mean), (True, *needed[16:19])
            )
            of_windows, of_key = of_windows.add_(more), None
            of_charts.append(of_last)
        if self.windows is None:
            of_x, *of_norm1 = self.norm1().backward(
                *(of_windows, (True, *needed[3:5]), *statistics1), of_x.flatten(0, 1)
            )
            of_x, of_windows = of_x.view_as(x), None
        return (
            *(of_x, of_windows, of_key, *of_norm1, of_table, *of_project),
            *(*of_project_out, *of_norm2, *of_first, *of_second, *of_charts),
        )

    def norm1(self) -> WindowNorm:
        weights, x = (self.norm1_weight, self.norm1_bias), self.x.flatten(0, 1)
        settings = self.eps1, self.grid, self.dtype, self.keeps
        return self.norms[0](x, *weights, *settings)

    def norm2(self, x: Tensor, branch: Tensor | None = None) -> ResidualNorm:
        weights = self.drop1, self.norm2_weight, self.norm2_bias
        settings = self.eps2, self.grid, self.dtype, self.keeps
        return self.norms[1](x, branch, *weights, *settings)

    def charts(self, windows: Tensor) -> TokenMixing:
        parameters = self.mixing, self.mixing_bias, self.mixing_scale
        return self.mixes(windows, *parameters, self.key_approximate)

    def attention(self, rows: Tensor, key: Tensor | None) -> FusedWindowAttention:
        heads, dims = self.table.shape[1], self.x.shape[2]
        rows = rows.unflatten(-1, (-1, heads, dims // heads))
        position = self.table, self.pairs, self.shifted
        return FusedWindowAttention(rows, key, *position, self.grid, self.scale)

    def hidden(self, normed: Tensor) -> Tensor:
        """What enters GELU."""
        return F.linear(normed, self.weight1, self.bias1)


def of_linear(
    grad: Tensor, x: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a linear layer's weight and bias, for those of its output."""
    return (
        grad.t().mm(x) if needed[0] else None,
        grad.sum(dim=0) if needed[1] else None,
    )
