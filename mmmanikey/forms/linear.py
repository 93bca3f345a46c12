"""Linear layers in float32 on a CPU by oneDNN, with GELU in the same pass.

PyTorch computes a linear layer in float32 by its BLAS, which is MKL in the wheels for
x86, and by oneDNN (https://github.com/uxlfoundation/oneDNN) in graphs that Inductor
froze. The operator that Inductor writes there was faster on the AMD EPYC that we
measured on, and applies GELU before a result leaves the registers. It rounds
differently, so it serves keys and gradients only: the outputs of a network without a
key equal the stock ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HAS_ONEDNN = hasattr(torch.ops.mkldnn, '_linear_pointwise')


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str | None = None
) -> Tensor:
    """x W^T + b, or GELU of it; without a derivative.

    Args:
        x (Tensor): (T, I), any floating dtype.
        weight (Tensor): W, (O, I), of any strides.
        bias (Tensor, optional): b, (O). Defaults to None.
        gelu (str, optional): GELU's ``approximate``; ``None`` is no GELU. Defaults to
            None.

    Returns:
        Tensor: (T, O).
    """
    if onednn_applies(x):
        act = ('none', [], '') if gelu is None else ('gelu', [], gelu)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *act)
    out = F.linear(x, weight, bias)
    return out if gelu is None else torch.ops.aten.gelu_(out, approximate=gelu)


def add_linear(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """total += x W^T, for a total (T, O); see :func:`linear`."""
    if onednn_applies(x):
        args = x, total, weight, None, 'add'
        total.copy_(torch.ops.mkldnn._linear_pointwise.binary(*args))
    else:
        add_product(total, x, weight.t())


def linear_to(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """x W^T, written to ``out`` (T, O); see :func:`linear`."""
    if onednn_applies(x):
        out.copy_(linear(x, weight))
    else:
        torch.mm(x, weight.t(), out=out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where the total may be of a wider dtype."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, out=total)
    else:
        total += a @ b


def onednn_applies(x: Tensor) -> bool:
    """Whether oneDNN computes a linear layer of ``x``.

    ``torch.backends.mkldnn.flags(enabled=False)`` forbids it, as it does in PyTorch.
    """
    return (
        HAS_ONEDNN
        and x.device.type == 'cpu'
        and x.dtype == torch.float32
        and torch.backends.mkldnn.enabled
    )
