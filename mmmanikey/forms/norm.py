"""Layer normalisation, into windows or not."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .window_grid import WindowGrid, gathered

layer_norm_gradients = torch.ops.aten.native_layer_norm_backward


class Norm(NamedTuple):
    """Layer normalisation of tokens, (T, C), or in windows, (W, N, C).

    Args:
        x (Tensor): Tokens of a batch of grids, (T, C).
        weight (Tensor): (C), in whose dtype it is computed.
        bias (Tensor): (C).
        eps (float): Added to the variance.
        grid (WindowGrid, optional): The windows, if the result is to be in windows.
        dtype (torch.dtype): Of the result.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    grid: WindowGrid | None
    dtype: torch.dtype

    def plain(self) -> Tensor:
        x, weight, bias, eps, grid, dtype = self
        x = F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, eps).to(dtype)
        return x if grid is None else gathered(x, grid)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and the mean and the inverse deviation of each token."""
        x, weight, bias, eps, grid, dtype = self
        x = x.to(weight.dtype)
        x, *kept = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        x = x.to(dtype)
        return x if grid is None else gathered(x, grid), *kept

    def backward(
        self,
        grad: Tensor,
        needed: tuple[bool, ...],
        mean: Tensor,
        rstd: Tensor,
        more: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Those of x, weight and bias; ``more`` is added to that of x."""
        x, weight, bias, _, grid, _ = self
        grad = grad if grid is None else gathered(grad, grid, False)
        dtype = weight.dtype
        of_x, *others = layer_norm_gradients(
            *(grad.to(dtype), x.to(dtype), weight.shape, mean, rstd),
            *(weight, bias, [*needed[:3]]),
        )
        return of_x if more is None else of_x + more, *others
