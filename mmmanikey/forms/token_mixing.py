"""SpatialK's mixing, mean_h GELU(s_h * (T_h x) + b_h), some windows at a time.

The plain form is bound by memory: H activations of the size of x are written and read
several times over. Here a piece of windows stays in the cache from the product to the
mean, and the backward pass starts again from x.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import gelu_gradient_to
from .linear import linear
from .pieces import cast_together, pieces, sum_dtype

gelu_ = torch.ops.aten.gelu_


class TokenMixing(NamedTuple):
    """The mean of the charts of whole windows, (B, N, C).

    Parameters are cast to the dtype of x, and their gradients add up in their own.

    Args:
        x (Tensor): Windows, (B, N, C), any floating dtype.
        weight (Tensor): T, (H * N, N).
        bias (Tensor): b, (H * N).
        scale (Tensor): s, (H, C).
        approximate (str): As in :class:`torch.nn.GELU`.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor
    approximate: str

    def plain(self) -> Tensor:
        act = partial(F.gelu, approximate=self.approximate)
        return chart_by_chart(*self.cast()[:4], act)

    def cast(self) -> 'TokenMixing':
        """With all tensors in the dtype of x."""
        x, *parameters, approximate = self
        if all(each.dtype == x.dtype for each in parameters):
            return self
        return type(self)(x, *cast_together(x.dtype, *parameters), approximate)

    def forward(self) -> Tensor:
        x, weight, bias, scale, approximate = self.cast()
        charts, (_, tokens, dims) = len(scale), x.shape
        shift, factor = bias.view(charts, tokens, 1, 1), scale[:, None, None]
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for piece in self.window_pieces():
            mixed = linear(weight, columns_of(x[piece]).t())
            mixed = mixed.view(charts, tokens, -1, dims)  # (H, N, b, C)
            torch.addcmul(shift, mixed, factor, out=mixed)
            gelu_(mixed, approximate=approximate)
            out[piece] = mixed.mean(dim=0).transpose(0, 1)
        return out

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, approximate = self.cast()
        charts, (_, tokens, dims) = len(scale), x.shape
        shift, factor = bias.view(charts, tokens, 1, 1), scale[:, None, None]
        dtype = sum_dtype(x)
        grad_x = torch.empty_like(x) if needed[0] else None
        grad_weight = torch.zeros_like(weight, dtype=dtype)
        grad_bias = torch.zeros_like(shift[..., 0, 0], dtype=dtype)
        grad_scale = torch.zeros_like(scale, dtype=dtype)
        for piece in self.window_pieces():
            columns = columns_of(x[piece])
            mixed = linear(weight, columns.t()).view(charts, tokens, -1, dims)
            inner = torch.addcmul(shift, mixed, factor)
            outer = grad[piece].transpose(0, 1).div(charts).expand_as(inner)
            gelu_gradient_to(outer, inner, approximate=approximate, grad_input=inner)
            grad_bias += inner.sum(dim=(2, 3))
            grad_scale += mixed.mul_(inner).sum(dim=1).sum(dim=1)
            inner = inner.mul_(factor).view(len(weight), -1)  # (H * N, b * C)
            grad_weight += linear(inner, columns)
            if grad_x is not None:
                of_columns = linear(weight.t(), inner.t()).view(tokens, -1, dims)
                grad_x[piece] = of_columns.transpose(0, 1)
        return grad_x, grad_weight, grad_bias.flatten(), grad_scale

    def window_pieces(self) -> list[slice]:
        """Windows whose charts fit a buffer."""
        x = self.x
        bytes_each = len(self.scale) * x.shape[1] * x.shape[2] * x.element_size()
        return pieces(0, len(x), bytes_each, x.device)


def columns_of(x: Tensor) -> Tensor:
    """Windows (b, N, C) side by side, (N, b * C): one product mixes all of them."""
    return x.transpose(0, 1).flatten(1)


def chart_by_chart(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    act: Callable[[Tensor], Tensor],
) -> Tensor:
    """As :class:`TokenMixing` for any activation, one chart's activations at a time.

    The products are convolutions: an exporter would fix the batch of a batched product,
    and counters of FLOPs do not know one that broadcasts.
    """
    charts, tokens = len(scale), len(bias) // len(scale)  # numbers in a trace as well
    mixing = weight.view(charts, tokens, tokens, 1)
    shift = bias.view(charts, tokens, 1)
    total = 0
    for chart in range(charts):
        mixed = F.conv1d(x, mixing[chart])  # (B, N, C)
        total = total + act(mixed * scale[chart] + shift[chart])
    return total / charts


def charts_at_once(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    act: Callable[[Tensor], Tensor],
) -> Tensor:
    """As :func:`chart_by_chart`, in one product: a compiler fuses the rest."""
    charts = len(scale)
    mixed = F.linear(x.transpose(1, 2), weight.flatten(1))
    mixed = mixed.unflatten(2, (charts, -1))  # (B, C, H, N)
    inner = mixed * scale.t()[:, :, None] + bias.view(charts, -1)
    return act(inner).mean(dim=2).transpose(1, 2)
