"""Linear layers in float32 on a CPU by oneDNN, with GELU in the same pass.

PyTorch computes a linear layer in float32 by its BLAS, which is MKL in the wheels for
x86, and by oneDNN (https://github.com/uxlfoundation/oneDNN) in graphs that Inductor
froze. The operator that Inductor writes there was faster on the AMD EPYC that we
measured on, by a factor of two where that one knows AVX-512, and applies GELU before a
result leaves the registers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gradients import compute

HAS_ONEDNN = hasattr(torch.ops.mkldnn, '_linear_pointwise')


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str | None = None
) -> Tensor:
    """x W^T + b, or GELU of it; without a derivative.

    Args:
        x (Tensor): (T, I), any floating dtype.
        weight (Tensor): W, (O, I), of any strides.
        bias (Tensor, optional): b, (O), of any strides. Defaults to None.
        gelu (str, optional): GELU's ``approximate``; ``None`` is no GELU. Defaults to
            None.

    Returns:
        Tensor: (T, O).
    """
    if onednn_applies(x, weight, bias):
        act = ('none', [], '') if gelu is None else ('gelu', [], gelu)
        if bias is not None:  # of which oneDNN looks at no strides
            bias = bias.expand(len(weight)).contiguous()
        return torch.ops.mkldnn._linear_pointwise(x, without_gaps(weight), bias, *act)
    out = F.linear(x, weight, bias)
    return out if gelu is None else torch.ops.aten.gelu_(out, approximate=gelu)


def without_gaps(weight: Tensor) -> Tensor:
    """The weight, copied if it has gaps or repeats: with them oneDNN takes 1000 times
    as long.
    """
    has_none = weight.is_contiguous() or weight.t().is_contiguous()
    return weight if has_none else weight.contiguous()


def add_linear(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """total += x W^T, for a total (T, O); see :func:`linear`."""
    if onednn_applies(x):
        args = x, total, without_gaps(weight), None, 'add'
        total.copy_(torch.ops.mkldnn._linear_pointwise.binary(*args))
    else:
        add_product(total, x, weight.t())


def linear_to(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    exact: bool = False,
) -> None:
    """x W^T + b, written to ``out`` (T, O); see :func:`must_be_exact`."""
    if onednn_applies(x) and not exact:
        out.copy_(linear(x, weight, bias))
    elif bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """a^T b, (O, I), for a (T, O) and b (T, I), as gradients of weights are made."""
    if not len(a) or not onednn_applies(a):
        return a.t() @ b
    if a.shape[1] > b.shape[1] and len(a) > 2 * b.shape[1]:  # oneDNN wants few rows
        return linear(b.t(), a.t()).t().contiguous()
    return linear(a.t(), b.t())


def add_outer(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a^T b, see :func:`outer`."""
    if onednn_applies(a):
        total += outer(a, b)
    else:
        add_product(total, a.t(), b)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where the total may be of a wider dtype."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, out=total)
    else:
        total += a @ b


class Dense(NamedTuple):
    """x W^T + b, for x (T, I), W (O, I) and b (O) or None; see :func:`dense`."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    exact: bool

    def plain(self) -> Tensor:
        return F.linear(*self[:3])

    def forward(self) -> Tensor:
        return product_of(self.exact)(*self[:3])

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        return (
            linear(grad, self.weight.t()) if needed[0] else None,
            outer(grad, self.x) if needed[1] else None,
            grad.sum(dim=0) if needed[2] else None,
        )


def must_be_exact(has_linear_key: bool) -> bool:
    """Whether products of the forward pass are to be PyTorch's own.

    oneDNN's are as exact, but round otherwise. A network with linear or residual keys
    is to equal the stock one to 1e-6 of its outputs, and would miss it by a little over
    12 layers. A user may allow it by PyTorch's own switch for products, see
    :func:`may_round`.

    Args:
        has_linear_key (bool): Whether the layer, or the attention beside it, has one.
    """
    return has_linear_key and not may_round()


def may_round() -> bool:
    """Whether the user allows products in float32 on a CPU to be less exact.

    By ``torch.set_float32_matmul_precision('high')``, or since torch 2.9 by
    ``torch.backends.mkldnn.matmul.fp32_precision`` or what stands above it.
    """
    try:
        return torch.backends.mkldnn.matmul.fp32_precision in ('tf32', 'bf16')
    except AttributeError:
        return torch.get_float32_matmul_precision() != 'highest'


def product_of(exact: bool) -> Callable[..., Tensor]:
    """What computes a linear layer: see :func:`must_be_exact`."""
    return F.linear if exact else linear


def dense(
    x: Tensor, weight: Tensor, bias: Tensor | None, exact: bool = False
) -> Tensor:
    """A linear layer (T, O); with ``exact`` only its gradients are oneDNN's."""
    if not onednn_applies(x) or (exact and not torch.is_grad_enabled()):
        return F.linear(x, weight, bias)
    return compute(Dense(x, weight, bias, exact))


def apply_linear(layer: nn.Module, x: Tensor, exact: bool = False) -> Tensor:
    """``layer(x)`` for x (..., I), within a form that need not call a plain layer."""
    if type(layer) is not nn.Linear or x.dtype != layer.weight.dtype:
        return layer(x)
    out = dense(x.flatten(0, -2), layer.weight, layer.bias, exact)
    return out.view(*x.shape[:-1], len(layer.weight))


def onednn_applies(*tensors: Tensor | None) -> bool:
    """Whether oneDNN computes a linear layer of these tensors.

    ``torch.backends.mkldnn.flags(enabled=False)`` forbids it, as it does in PyTorch.
    """
    return (
        HAS_ONEDNN
        and torch.backends.mkldnn.enabled
        and all(x.is_cpu and x.dtype == torch.float32 for x in tensors if x is not None)
    )
