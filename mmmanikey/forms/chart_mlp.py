"""Charts over channels, one chart and some tokens at a time. Not from the paper.

    total over h of  q_h * (W_h GELU(V_h (s_h * x) + b_h))

The dense form holds H hidden layers of the size of x. Here one chart's hidden layer
of some tokens stays in the cache between both products, and the backward pass starts
again from x. Folded weights are made chart by chart as well: kept, they would weigh as
much as the activations.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import add_linear, add_outer, linear, outer
from .pieces import sum_dtype, token_pieces


class ChartMLP(NamedTuple):
    """The sum over the charts of their two-layer perceptrons, (M, O).

    Args:
        x (Tensor): Tokens, (M, C), any floating dtype.
        scale (Tensor): s, (H, C).
        weight1 (Tensor): V, (H, d, C).
        bias1 (Tensor): b, (H, d).
        weight2 (Tensor): W, (H, O, d), or (1, O, d) for one that all charts share.
        gate (Tensor, optional): q, (M, H). ``None`` is ones.
        approximate (str): As in :class:`torch.nn.GELU`.
    """

    x: Tensor
    scale: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    gate: Tensor | None
    approximate: str

    def plain(self) -> Tensor:
        x, scale, weight1, bias1, weight2, gate, approximate = self
        folded = (weight1 * scale[:, None]).flatten(0, 1)  # (H * d, C)
        hidden = F.gelu(F.linear(x, folded, bias1.flatten()), approximate=approximate)
        if gate is not None:
            hidden = hidden.unflatten(1, (len(scale), -1)) * gate[..., None]
            hidden = hidden.flatten(1)
        second = weight2.expand(len(scale), -1, -1).transpose(0, 1).flatten(1)
        return F.linear(hidden, second)

    @property
    def is_shared(self) -> bool:
        """Whether all charts share the second layer."""
        return len(self.weight2) < len(self.scale)

    def forward(self) -> Tensor:
        x, scale, weight1, bias1, weight2, gate, approximate = self
        # what the charts add up to: the output, or what the shared layer takes
        width = weight2.shape[2 if self.is_shared else 1]
        total = x.new_zeros(len(x), width, dtype=sum_dtype(x))
        for h in range(len(scale)):
            folded = weight1[h] * scale[h]  # (d, C)
            for piece in token_pieces(x, len(folded)):
                hidden = linear(x[piece], folded, bias1[h], gelu=approximate)
                if gate is not None:
                    hidden.mul_(gate[piece, h, None])
                if self.is_shared:
                    total[piece] += hidden
                else:
                    add_linear(total[piece], hidden, weight2[h])
        total = total.to(x.dtype)
        return linear(total, weight2[0]) if self.is_shared else total

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        x, scale, weight1, bias1, weight2, gate, approximate = self
        shared, dtype = self.is_shared, sum_dtype(x)
        total = x.new_zeros(len(x), weight2.shape[2], dtype=dtype) if shared else None
        grad_x = torch.zeros_like(x, dtype=dtype)
        grad_scale = torch.empty_like(scale)
        grad_weight1 = torch.empty_like(weight1)
        grad_bias1 = torch.zeros_like(bias1, dtype=dtype)
        grad_weight2 = torch.zeros_like(weight2, dtype=dtype)
        grad_gate = None if gate is None else torch.empty_like(gate)
        grad_folded = torch.empty_like(weight1[0], dtype=dtype)  # (d, C)
        shared_grad = linear(grad, weight2[0].t()) if shared else None  # (M, d)
        for h in range(len(scale)):
            folded = weight1[h] * scale[h]
            grad_folded.zero_()
            for piece in token_pieces(x, len(folded)):
                before = linear(x[piece], folded, bias1[h])  # (m, d)
                hidden = F.gelu(before, approximate=approximate)
                inner = (
                    shared_grad[piece]
                    if shared
                    else linear(grad[piece], weight2[h].t())
                )
                if gate is not None:
                    share = gate[piece, h, None]
                    grad_gate[piece, h] = (inner * hidden).sum(dim=1)
                    inner, hidden = inner * share, hidden.mul_(share)
                if shared:
                    total[piece] += hidden
                else:
                    add_outer(grad_weight2[h], grad[piece], hidden)
                inner = torch.ops.aten.gelu_backward(
                    inner, before, approximate=approximate
                )
                grad_bias1[h] += inner.sum(dim=0)
                add_outer(grad_folded, inner, x[piece])
                add_linear(grad_x[piece], inner, folded.t())
            torch.mul(grad_folded, scale[h], out=grad_weight1[h])
            grad_scale[h] = grad_folded.mul_(weight1[h]).sum(dim=0)
        if shared:
            grad_weight2[0] = outer(grad, total.to(grad.dtype))
        return grad_x, grad_scale, grad_weight1, grad_bias1, grad_weight2, grad_gate
