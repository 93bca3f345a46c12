"""The two norms of a block of Swin, with what stands before and behind them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .window_grid import WindowGrid, gathered

layer_norm_gradients = torch.ops.aten.native_layer_norm_backward


class WindowNorm(NamedTuple):
    """Normalised tokens in windows, (W, N, C).

    Args:
        x (Tensor): Tokens of a batch of grids, (T, C).
        weight (Tensor): (C), in whose dtype the norm is computed.
        bias (Tensor): (C).
        eps (float): Added to the variance.
        grid (WindowGrid): The windows.
        dtype (torch.dtype): Of the result.
        keeps (bool): Whether there will be a backward pass.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    grid: WindowGrid
    dtype: torch.dtype
    keeps: bool

    def plain(self) -> Tensor:
        x, weight, bias, eps, grid, dtype, _ = self
        x = F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, eps)
        return gathered(x.to(dtype), grid)

    def forward(self) -> tuple[Tensor | None, ...]:
        """The result, and the mean and the inverse deviation of each token, (T, 1)."""
        x, weight, bias, eps, grid, dtype, _ = self
        x = x.to(weight.dtype)
        x, *kept = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        return gathered(x.to(dtype), grid), *kept

    def backward(
        self,
        grad: Tensor,
        needed: tuple[bool, ...],
        mean: Tensor,
        rstd: Tensor,
        more: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Those of x, to which ``more`` is added, of weight and of bias."""
        x, weight, bias, *_ = self
        grad = gathered(grad, self.grid, False)
        of_x, *others = norm_gradients(grad, x, weight, bias, needed, mean, rstd)
        return of_x if more is None else of_x + more, *others


class ResidualNorm(NamedTuple):
    """The sum of tokens and a branch, (B, h * w, C), and that normalised, (T, C).

    Args:
        x (Tensor): Tokens, (B, h * w, C); for :meth:`backward` the sum.
        branch (Tensor, optional): What is added, in windows, (W * N, C); for
            :meth:`backward` it need not be there.
        drop (Tensor, optional): Factor of the branch for each image, (B, 1, 1),
            float32. ``None`` is ones.
        weight (Tensor): As of :class:`WindowNorm`.
        bias (Tensor): Likewise.
        eps (float): Likewise.
        grid (WindowGrid): Likewise.
        dtype (torch.dtype): Of what is normalised, and of the branch.
        keeps (bool): As of :class:`WindowNorm`.
    """

    x: Tensor
    branch: Tensor | None
    drop: Tensor | None
    weight: Tensor
    bias: Tensor
    eps: float
    grid: WindowGrid
    dtype: torch.dtype
    keeps: bool

    def plain(self) -> tuple[Tensor, Tensor]:
        x, branch, drop, weight, bias, eps, grid, dtype, _ = self
        x = plus(x, gathered(branch, grid, False), drop)
        normed = F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, eps)
        return x, normed.to(dtype).flatten(0, 1)

    def forward(self) -> tuple[Tensor | None, ...]:
        """Both, and the mean and the inverse deviation of each token, (T, 1)."""
        x, branch, drop, weight, bias, eps, grid, dtype, _ = self
        x = plus_to(x, gathered(branch, grid, False), drop)
        tokens = x.flatten(0, 1).to(weight.dtype)
        normed, *kept = torch.native_layer_norm(tokens, weight.shape, weight, bias, eps)
        return x, normed.to(dtype), *kept

    def backward(
        self,
        of_sum: Tensor,
        grad: Tensor,
        needed: tuple[bool, ...],
        mean: Tensor,
        rstd: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """Those of x, of the branch, of weight and of bias.

        Args:
            of_sum (Tensor): Of the sum, (B, h * w, C).
            grad (Tensor): Of what is normalised, (T, C).
            needed (tuple[bool, ...]): Whether those of x, of weight and of bias are.
            mean (Tensor): What was kept.
            rstd (Tensor): Likewise.
        """
        x, _, drop, weight, bias, _, grid, dtype, _ = self
        tokens = x.flatten(0, 1)
        of_x, *others = norm_gradients(grad, tokens, weight, bias, needed, mean, rstd)
        of_x = of_x.view_as(x) + of_sum
        return of_x, gathered(scaled_to(dtype, of_x, drop), grid), *others


def norm_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    needed: tuple[bool, ...],
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor | None, ...]:
    """Of tokens (T, C), of weight and of bias."""
    dtype, shape = weight.dtype, weight.shape
    arguments = grad.to(dtype), x.to(dtype), shape, mean, rstd, weight, bias
    return layer_norm_gradients(*arguments, [*needed[:3]])


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


def scaled_to(dtype: torch.dtype, grad: Tensor, drop: Tensor | None) -> Tensor:
    """Gradient of a branch, (T, C), of that of a sum, (B, N, C)."""
    if drop is None:
        return grad.to(dtype).flatten(0, 1)
    branch = torch.empty_like(grad, dtype=dtype)
    return torch.mul(grad, drop, out=branch).flatten(0, 1)
