"""mmcv's feed-forward network, some tokens at a time on a CPU.

The hidden layer of a feature map is four times as wide as the map. On a CPU, writing
all of it to fresh memory costs more than its activation; in pieces it stays in the
cache between the two layers.
"""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import Linear
from mmengine.model import Sequential
from torch import Tensor, nn

from ..backbones.ffn import FeedForward
from .choice import Form, register
from .gradients import compute, gelu_gradient_to
from .linear import add_product, linear
from .pieces import token_pieces, why_not_here

gelu_to = torch.ops.aten.gelu.out


@register(FeedForward)
class TokensInPieces(Form):
    """Both layers for some tokens; what enters GELU is kept, and what leaves it not."""

    name = 'tokens in pieces'
    replaces: ClassVar = {
        'layers.0': Sequential,
        'layers.0.0': (nn.Linear, Linear),
        'layers.0.1': nn.GELU,
        'layers.0.2': nn.Dropout,
        'layers.1': (nn.Linear, Linear),
    }

    def why_not(self, ffn: FeedForward, x: Tensor) -> str | None:
        if x.device.type != 'cpu':
            return f'the device is {x.device.type}'
        if len(ffn.layers) < 3 or len(ffn.layers[0]) != 3:
            return 'there are other layers'
        (first, _, dropout), second, *_ = ffn.layers
        if first.bias is None or second.bias is None:
            return 'a layer has no bias'
        if ffn.training and dropout.p:
            return 'the hidden layer is dropped'
        return why_not_here(x, first.weight)

    def __call__(self, ffn: FeedForward, x: Tensor) -> Tensor:
        (first, act, _), second, *rest = ffn.layers
        tensors = x.flatten(0, -2), first.weight, first.bias, second.weight, second.bias
        before = None
        if torch.is_grad_enabled() and any(part.requires_grad for part in tensors):
            before = x.new_empty(len(tensors[0]), first.out_features)
        out = compute(TwoLayers(*tensors, before, act.approximate))
        out = out.unflatten(0, x.shape[:-1])
        for layer in rest:  # dropout, context broadcasting
            out = layer(out)
        return out


class TwoLayers(NamedTuple):
    """W_2 GELU(W_1 x + b_1) + b_2, (T, O), on a CPU.

    Args:
        x (Tensor): Tokens, (T, C), float32 or float64.
        weight1 (Tensor): (D, C).
        bias1 (Tensor): (D).
        weight2 (Tensor): (O, D).
        bias2 (Tensor): (O).
        before (Tensor, optional): Memory for W_1 x + b_1, (T, D), which is kept for the
            backward pass; ``None`` where there will be none.
        approximate (str): As in :class:`torch.nn.GELU`.
    """

    x: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    before: Tensor | None
    approximate: str

    def plain(self) -> Tensor:
        x, weight1, bias1, weight2, bias2, _, approximate = self
        hidden = F.gelu(F.linear(x, weight1, bias1), approximate=approximate)
        return F.linear(hidden, weight2, bias2)

    def forward(self) -> Tensor:
        x, weight1, bias1, weight2, bias2, before, approximate = self
        out = x.new_empty(len(x), len(weight2))
        cuts, hidden = pieces_and_memory(x, len(weight1))
        for cut in cuts:
            after = hidden[: cut.stop - cut.start]
            entering = after if before is None else before[cut]
            torch.addmm(bias1, x[cut], weight1.t(), out=entering)
            gelu_to(entering, approximate=approximate, out=after)
            torch.addmm(bias2, after, weight2.t(), out=out[cut])
        return out

    def backward(self, grad: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor, ...]:
        x, weight1, _, weight2, _, before, approximate = self
        grad_x = torch.empty_like(x)
        grad_weight1 = torch.zeros_like(weight1)
        grad_weight2 = torch.zeros_like(weight2)
        grad_bias1 = weight1.new_zeros(len(weight1))
        cuts, hidden = pieces_and_memory(x, len(weight1))
        for cut in cuts:
            entering, after = before[cut], hidden[: cut.stop - cut.start]
            gelu_to(entering, approximate=approximate, out=after)
            add_product(grad_weight2, grad[cut].t(), after)
            inner = linear(grad[cut], weight2.t())
            gelu_gradient_to(inner, entering, approximate=approximate, grad_input=inner)
            grad_bias1 += inner.sum(dim=0)
            add_product(grad_weight1, inner.t(), x[cut])
            grad_x[cut] = linear(inner, weight1.t())
        return grad_x, grad_weight1, grad_bias1, grad_weight2, grad.sum(dim=0)


def pieces_and_memory(tokens: Tensor, hidden_dims: int) -> tuple[list[slice], Tensor]:
    """Pieces of the tokens, and memory for the hidden layer of one of them."""
    cuts = token_pieces(tokens, hidden_dims)
    return cuts, tokens.new_empty(cuts[0].stop if cuts else 0, hidden_dims)
