"""What a block of Swin computes, in two computations of which autograd sees the ends.

The first normalises tokens and gathers them into windows. The second projects them,
makes a SpatialK, attends, and applies the feed-forward network, with all that is added
on the way.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused_windows import FusedWindowAttention
from .gradients import gelu_gradient_to
from .token_mixing import TokenMixing
from .window_grid import WindowGrid, gathered

layer_norm_gradients = torch.ops.aten.native_layer_norm_backward


class Norm(NamedTuple):
    """Layer normalisation of tokens (..., C), in the dtype of its weight."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def plain(self) -> Tensor:
        x, weight, bias, eps = self
        return F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, eps)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and the mean and the inverse deviation of each token."""
        x, weight, bias, eps = self
        x = x.to(weight.dtype)
        return torch.native_layer_norm(x, weight.shape, weight, bias, eps)

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...], *kept: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, _ = self
        dtype = weight.dtype
        return layer_norm_gradients(
            *(grad.to(dtype), x.to(dtype), weight.shape, *kept),
            *(weight, bias, [*needed]),
        )


class NormedWindows(NamedTuple):
    """Normalised tokens in windows, (W, N, C).

    Args:
        x (Tensor): Tokens of a batch of grids, (B * h * w, C).
        weight (Tensor): Of the norm, (C).
        bias (Tensor): Likewise.
        eps (float): Likewise.
        grid (WindowGrid): The windows.
        dtype (torch.dtype): Of the result.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    grid: WindowGrid
    dtype: torch.dtype

    def plain(self) -> Tensor:
        return gathered(Norm(*self[:4]).plain().to(self.dtype), self.grid)

    def forward(self) -> tuple[Tensor, ...]:
        normed, *kept = Norm(*self[:4]).forward()
        return gathered(normed.to(self.dtype), self.grid), *kept

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...], *kept: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad = gathered(grad, self.grid, False)
        return Norm(*self[:4]).backward(grad, needed[:3], *kept)


class BlockTail(NamedTuple):
    """What a block computes of its windows and their key, (B, h * w, C).

    Args:
        windows (Tensor): Normalised tokens in windows, (W, N, C).
        key (Tensor, optional): As of :class:`FusedWindowAttention`.
        identity (Tensor): What enters the block, (B, h * w, C).
        weights (Tensor): Of the projections of the attention, of the norm, and of the
            feed-forward network, as PyTorch's layers have them; the table of
            :class:`PositionBias`; and where the key is a SpatialK that this computes
            as well, those of :class:`TokenMixing` and of its last layer.
        drop1 (Tensor, optional): Factor of what attention adds to each image, (B, 1,
            1), float32. ``None`` is ones.
        drop2 (Tensor, optional): As ``drop1``, of the feed-forward network.
        index (Tensor): As of :class:`PositionBias`.
        grid (WindowGrid): The windows.
        shifted (bool): As of :class:`PositionBias`.
        scale (float): Factor of the logits.
        eps (float): Of the norm.
        approximate (str): As in :class:`torch.nn.GELU`.
        keeps (bool): Whether there will be a backward pass.
        kind (type[TokenMixing], optional): What computes a SpatialK, if this does.
        key_approximate (str): As in :class:`torch.nn.GELU`, of that key.
    """

    windows: Tensor
    key: Tensor | None
    identity: Tensor
    table: Tensor
    project_weight: Tensor
    project_bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
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
    index: Tensor
    grid: WindowGrid
    shifted: bool
    scale: float
    eps: float
    approximate: str
    keeps: bool
    kind: type[TokenMixing] | None
    key_approximate: str

    def plain(self) -> Tensor:
        rows = F.linear(self.windows, self.project_weight, self.project_bias)
        key = self.key
        if self.kind is not None:
            key = F.linear(self.charts().plain(), self.key_weight)
        attended = self.attention(rows, key).plain()
        out = F.linear(attended, self.out_weight, self.out_bias)
        x = plus(self.identity, gathered(out, self.grid, False), self.drop1)
        normed = self.norm(x).plain().to(out.dtype)
        hidden = F.gelu(self.hidden(normed), approximate=self.approximate)
        return plus(x, F.linear(hidden, self.weight2, self.bias2), self.drop2)

    def forward(self) -> tuple[Tensor, ...]:
        x, *kept = self.attend()
        if not self.keeps:
            kept = ()  # its memory serves the hidden layer
        normed, *statistics = self.norm(x.flatten(0, 1)).forward()
        normed = normed.to(self.windows.dtype)
        entering = self.hidden(normed)
        hidden = F.gelu(entering, approximate=self.approximate)
        out = F.linear(hidden, self.weight2, self.bias2)
        return plus_to(x, out, self.drop2), x, normed, entering, *statistics, *kept

    def attend(self) -> tuple[Tensor, ...]:
        """The block without its feed-forward network, and what its gradient takes."""
        windows, key, mean = self.windows, self.key, None
        if self.kind is not None:
            mean = self.charts().forward()
            key = mean.flatten(0, 1).mm(self.key_weight.t()).view_as(windows)
        rows = F.linear(windows.flatten(0, 1), self.project_weight, self.project_bias)
        rows = rows.view(*windows.shape[:2], -1)
        attended, *kept = self.attention(rows, key).forward()
        out = F.linear(attended.flatten(0, 1), self.out_weight, self.out_bias)
        out = gathered(out, self.grid, False)
        return plus_to(self.identity, out, self.drop1), mean, key, rows, *kept

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...], *kept: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, normed, entering, *statistics, mean, key, rows, attended = kept[:9]
        of_out = self.of_branch(grad, self.drop2)
        hidden = F.gelu(entering, approximate=self.approximate)
        of_second = of_linear(of_out, hidden, needed[12:14])
        of_hidden = of_out.mm(self.weight2)
        gelu_gradient_to(
            of_hidden, entering, approximate=self.approximate, grad_input=of_hidden
        )
        of_first = of_linear(of_hidden, normed, needed[10:12])
        of_x, *of_norm = self.norm(x.flatten(0, 1)).backward(
            of_hidden.mm(self.weight1), (True, *needed[8:10]), *statistics
        )
        of_x = of_x.view_as(x) + grad
        of_out = gathered(self.of_branch(of_x, self.drop1), self.grid).flatten(0, 1)
        of_project_out = of_linear(of_out, attended.flatten(0, 1), needed[6:8])
        of_rows, of_key, of_table = self.attention(rows, key).backward(
            of_out.mm(self.out_weight).view_as(attended), (), *kept[8:]
        )
        of_rows, windows = of_rows.flatten(2).flatten(0, 1), self.windows
        of_project = of_linear(of_rows, windows.flatten(0, 1), needed[4:6])
        of_windows, of_charts = of_rows.mm(self.project_weight).view_as(windows), ()
        if self.kind is not None:
            of_key = of_key.flatten(0, 1)
            of_last, _ = of_linear(of_key, mean.flatten(0, 1), (needed[17], False))
            more, *of_charts = self.charts().backward(
                of_key.mm(self.key_weight).view_as(mean), (True, *needed[14:17])
            )
            of_windows, of_key = of_windows.add_(more), None
            of_charts.append(of_last)
        return (
            *(of_windows, of_key, of_x, of_table, *of_project, *of_project_out),
            *(*of_norm, *of_first, *of_second, *of_charts),
        )

    def charts(self) -> TokenMixing:
        parameters = self.mixing, self.mixing_bias, self.mixing_scale
        return self.kind(self.windows, *parameters, self.key_approximate)

    def attention(self, rows: Tensor, key: Tensor | None) -> FusedWindowAttention:
        heads, dims = self.table.shape[1], self.windows.shape[2]
        rows = rows.unflatten(-1, (-1, heads, dims // heads))
        position = self.table, self.index, self.shifted
        return FusedWindowAttention(rows, key, *position, self.grid, self.scale)

    def norm(self, x: Tensor) -> Norm:
        return Norm(x, self.norm_weight, self.norm_bias, self.eps)

    def hidden(self, normed: Tensor) -> Tensor:
        """What enters GELU."""
        return F.linear(normed, self.weight1, self.bias1)

    def of_branch(self, grad: Tensor, drop: Tensor | None) -> Tensor:
        """Gradient of what was added, (B * h * w, C), in the dtype of products."""
        if drop is None:
            return grad.to(self.windows.dtype).flatten(0, 1)
        branch = torch.empty_like(grad, dtype=self.windows.dtype)
        return torch.mul(grad, drop, out=branch).flatten(0, 1)


def of_linear(
    grad: Tensor, x: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a linear layer's weight and bias, for those of its output."""
    return (
        grad.t().mm(x) if needed[0] else None,
        grad.sum(dim=0) if needed[1] else None,
    )


def plus(x: Tensor, branch: Tensor, drop: Tensor | None) -> Tensor:
    """x (B, N, C) and a branch of as many values times its drop path's factor.

    The branch comes first: it is contiguous, and x need not be.
    """
    branch = branch.view_as(x)
    return (branch if drop is None else (branch * drop).to(branch.dtype)) + x


def plus_to(x: Tensor, branch: Tensor, drop: Tensor | None) -> Tensor:
    """As :func:`plus`, without a derivative and with a cast less."""
    if drop is not None:
        branch = branch.view_as(x)
        branch = torch.mul(branch, drop, out=torch.empty_like(branch))
    return plus(x, branch, None)
