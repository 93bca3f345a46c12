"""SpatialK's mixing, mean_h GELU(s_h * (T_h x) + b_h), some windows at a time. (Ours.)

The plain form is bound by memory: H activations of the size of x are written and read
several times over. Here a piece of windows stays in the cache from the product to the
mean, and the backward pass starts again from x.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from .common import autocast, pieces

gelu_ = torch.ops.aten.gelu_
gelu_backward = torch.ops.aten.gelu_backward


def token_mixing(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, approximate: str = 'none'
) -> Tensor:
    """Mean of the charts of whole windows.

    Only ``x`` is kept for the backward pass, and there is no second derivative.

    Args:
        x (Tensor): Windows, (B, N, C), any floating dtype.
        weight (Tensor): T, (H * N, N) or (H * N, N, 1).
        bias (Tensor): b, (H * N).
        scale (Tensor): s, (H, C).
        approximate (str): As in :class:`torch.nn.GELU`. Defaults to 'none'.

    Returns:
        Tensor: (B, N, C).
    """
    x, weight, bias, scale = autocast(x, weight, bias, scale)
    return TokenMixing.apply(x, weight.flatten(1), bias, scale, approximate)


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
        ctx.approximate = approximate
        charts = len(scale)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        with torch.autocast(x.device.type, enabled=False):
            factor, shift = scale[:, None], bias.view(charts, -1, 1)
            for piece in window_pieces(x, charts):
                mixed = torch.matmul(weight, x[piece])  # (b, H * N, C)
                mixed = mixed.unflatten(1, (charts, -1))  # (b, H, N, C)
                torch.addcmul(shift, mixed, factor, out=mixed)
                gelu_(mixed, approximate=approximate)
                torch.sum(mixed, dim=1, out=out[piece])
            return out.div_(charts)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale = ctx.saved_tensors
        charts = len(scale)
        grad = grad / charts
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weight, grad_scale = torch.zeros_like(weight), torch.zeros_like(scale)
        grad_bias = torch.zeros_like(bias)
        for piece in window_pieces(x, charts):
            mixed = torch.matmul(weight, x[piece]).unflatten(1, (charts, -1))
            before = mixed * scale[:, None]
            before.add_(bias.view(charts, -1, 1))  # (b, H, N, C)
            inner = gelu_backward(
                grad[piece][:, None].expand_as(before),
                before,
                approximate=ctx.approximate,
            )
            grad_bias += inner.sum(dim=(0, 3)).flatten()
            grad_scale += mixed.mul_(inner).sum(dim=(0, 2))
            inner = inner.mul_(scale[:, None]).flatten(1, 2)  # (b, H * N, C)
            grad_weight += torch.bmm(inner, x[piece].transpose(1, 2)).sum(dim=0)
            if grad_x is not None:
                grad_x[piece] = torch.matmul(weight.t(), inner)
        return grad_x, grad_weight, grad_bias, grad_scale, None


def window_pieces(x: Tensor, charts: int) -> list[slice]:
    """Windows whose charts fit a buffer together."""
    bytes_each = charts * x.shape[1] * x.shape[2] * x.element_size()
    return pieces(0, len(x), bytes_each, x.device)
