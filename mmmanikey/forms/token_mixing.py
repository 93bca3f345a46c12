"""SpatialK's mixing, mean_h GELU(s_h * (T_h x) + b_h), some windows at a time.

The plain form is bound by memory: H activations of the size of x are written and read
several times over. Here a piece of windows stays in the cache from the product to the
mean, and the backward pass starts again from x.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from .gradients import by_hand
from .pieces import autocast, pieces, sum_dtype

gelu_ = torch.ops.aten.gelu_
gelu_backward = torch.ops.aten.gelu_backward.grad_input


def token_mixing(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, approximate: str
) -> Tensor:
    """Mean of the charts of whole windows.

    Only ``x`` is kept for the backward pass.

    Args:
        x (Tensor): Windows, (B, N, C), any floating dtype.
        weight (Tensor): T, (H * N, N) or (H * N, N, 1).
        bias (Tensor): b, (H * N).
        scale (Tensor): s, (H, C).
        approximate (str): As in :class:`torch.nn.GELU`.

    Returns:
        Tensor: (B, N, C).
    """
    x, weight, bias, scale = autocast(x, weight, bias, scale)
    return TokenMixing.apply(x, weight.flatten(1), bias, scale, approximate)


def plain_token_mixing(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, approximate: str
) -> Tensor:
    """As :class:`TokenMixing`, by PyTorch's operators."""
    act = partial(F.gelu, approximate=approximate)
    return chart_by_chart(x, weight, bias, scale, act)


def chart_by_chart(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    act: Callable[[Tensor], Tensor],
) -> Tensor:
    """As :func:`token_mixing` for any activation, one chart's activations at a time.

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


class TokenMixing(Function):
    """See :func:`token_mixing`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        approximate: str,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, scale)
        ctx.num_inputs, ctx.settings = 4, (approximate,)
        charts = len(scale)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        with torch.autocast(x.device.type, enabled=False):
            shift = bias.view(charts, -1, 1)
            for piece, (buffer,) in window_pieces(x, charts, buffers=1):
                mixed = mix(weight, x[piece], buffer)  # (b, H, N, C)
                torch.addcmul(shift, mixed, scale[:, None], out=mixed)
                gelu_(mixed, approximate=approximate)
                torch.mean(mixed, dim=1, out=out[piece])
            return out

    @by_hand(plain_token_mixing)
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale = ctx.saved_tensors
        (approximate,) = ctx.settings
        charts = len(scale)
        shift = bias.view(charts, -1, 1)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dtype = sum_dtype(x)
        grad_weight = weight.new_zeros(weight.shape[::-1], dtype=dtype)  # (N, H * N)
        grad_bias = bias.new_zeros(charts, x.shape[1], dtype=dtype)
        grad_scale = torch.zeros_like(scale, dtype=dtype)
        for piece, (buffer, inner) in window_pieces(x, charts, buffers=2):
            mixed = mix(weight, x[piece], buffer)  # (b, H, N, C)
            inner = torch.addcmul(shift, mixed, scale[:, None], out=inner)
            outer = grad[piece].div(charts)[:, None].expand_as(inner)
            gelu_backward(outer, inner, approximate=approximate, grad_input=inner)
            grad_bias += inner.sum(dim=3).sum(dim=0)
            grad_scale += mixed.mul_(inner).sum(dim=2).sum(dim=0)
            inner = inner.mul_(scale[:, None]).flatten(1, 2)  # (b, H * N, C)
            grad_weight += torch.bmm(x[piece], inner.transpose(1, 2)).sum(dim=0)
            if grad_x is not None:
                each = weight.t().expand(len(inner), -1, -1)
                torch.bmm(each, inner, out=grad_x[piece])
        return grad_x, grad_weight.t(), grad_bias.flatten(), grad_scale


def mix(weight: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    """T_h x of all charts, (b, H, N, C), written into the buffer."""
    each = weight.expand(len(x), -1, -1)
    torch.bmm(each, x, out=buffer.flatten(1, 2))
    return buffer


def window_pieces(
    x: Tensor, charts: int, buffers: int
) -> Iterator[tuple[slice, Tensor]]:
    """Windows whose charts fit a buffer, with some buffers (b, H, N, C) for them.

    The buffers are the same memory for each piece: fresh memory costs more than the
    arithmetic.
    """
    bytes_each = charts * x.shape[1] * x.shape[2] * x.element_size()
    cuts = pieces(0, len(x), bytes_each, x.device)
    longest = cuts[0].stop if cuts else 0
    memory = x.new_empty(buffers, longest, charts, *x.shape[1:])
    for cut in cuts:
        yield cut, memory[:, : cut.stop - cut.start]
