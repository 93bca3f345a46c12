"""SpatialK's mixing, mean_h GELU(s_h * (T_h x) + b_h), some windows at a time.

The plain form is bound by memory: H activations of the size of x are written and read
several times over. Here a piece of windows stays in the cache from the product to the
mean, and the backward pass starts again from x.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import gelu_gradient_to
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
        shift = bias.view(len(scale), -1, 1)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for piece, (buffer,) in self.window_pieces(buffers=1):
            mixed = mix(weight, x[piece], buffer)  # (b, H, N, C)
            torch.addcmul(shift, mixed, scale[:, None], out=mixed)
            gelu_(mixed, approximate=approximate)
            torch.mean(mixed, dim=1, out=out[piece])
        return out

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, approximate = self.cast()
        shift = bias.view(len(scale), -1, 1)
        dtype = sum_dtype(x)
        grad_x = torch.empty_like(x) if needed[0] else None
        grad_weight = weight.new_zeros(weight.shape[::-1], dtype=dtype)  # (N, H * N)
        grad_bias = torch.zeros_like(shift[..., 0], dtype=dtype)
        grad_scale = torch.zeros_like(scale, dtype=dtype)
        for piece, (buffer, inner) in self.window_pieces(buffers=2):
            mixed = mix(weight, x[piece], buffer)  # (b, H, N, C)
            torch.addcmul(shift, mixed, scale[:, None], out=inner)
            outer = grad[piece].div(len(scale))[:, None].expand_as(inner)
            gelu_gradient_to(outer, inner, approximate=approximate, grad_input=inner)
            grad_bias += inner.sum(dim=3).sum(dim=0)
            grad_scale += mixed.mul_(inner).sum(dim=2).sum(dim=0)
            inner = inner.mul_(scale[:, None]).flatten(1, 2)  # (b, H * N, C)
            grad_weight += torch.bmm(x[piece], inner.transpose(1, 2)).sum(dim=0)
            if grad_x is not None:
                each = weight.t().expand(len(inner), -1, -1)
                torch.bmm(each, inner, out=grad_x[piece])
        return grad_x, grad_weight.t(), grad_bias.flatten(), grad_scale

    def window_pieces(self, buffers: int) -> Iterator[tuple[slice, Tensor]]:
        """Windows whose charts fit a buffer, with some buffers (b, H, N, C) for them.

        The buffers are the same memory for each piece: fresh memory costs more than
        the arithmetic.
        """
        x, charts = self.x, len(self.scale)
        bytes_each = charts * x.shape[1] * x.shape[2] * x.element_size()
        cuts = pieces(0, len(x), bytes_each, x.device)
        longest = cuts[0].stop if cuts else 0
        memory = x.new_empty(buffers, longest, charts, *x.shape[1:])
        for cut in cuts:
            yield cut, memory[:, : cut.stop - cut.start]


def mix(weight: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    """T_h x of all charts, (b, H, N, C), written into the buffer."""
    torch.bmm(weight.expand(len(x), -1, -1), x, out=buffer.flatten(1, 2))
    return buffer


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
