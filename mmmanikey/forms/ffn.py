"""mmcv's feed-forward network, some tokens at a time on a CPU.

The hidden layer of a feature map is four times as wide as the map. On a CPU, writing
all of it to fresh memory costs more than its activation; in pieces it stays in the
cache between the two layers.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import Linear
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from ..backbones.ffn import FeedForward
from .choice import Form, register
from .gradients import by_hand
from .linear import add_product, linear
from .pieces import token_pieces, why_not_here

gelu = torch.ops.aten.gelu.out
gelu_backward = torch.ops.aten.gelu_backward.grad_input


@register(FeedForward)
class TokensInPieces(Form):
    """Both layers for some tokens; what enters GELU is kept, and what leaves it not."""

    name = 'tokens in pieces'

    def why_not(self, ffn: FeedForward, x: Tensor) -> str | None:
        if x.device.type != 'cpu':
            return f'the device is {x.device.type}'
        if ffn.num_fcs != 2:
            return f'it has {ffn.num_fcs} layers'
        if len(ffn.layers) < 3 or len(ffn.layers[0]) != 3:
            return 'there are other layers'
        (first, act, dropout), second, *_ = ffn.layers
        for layer, classes in (
            (first, (nn.Linear, Linear)),
            (act, (nn.GELU,)),
            (dropout, (nn.Dropout,)),
            (second, (nn.Linear, Linear)),
        ):
            if type(layer) not in classes:
                return f'a layer is a {type(layer).__name__}'
        if first.bias is None or second.bias is None:
            return 'a layer has no bias'
        if ffn.training and dropout.p:
            return 'the hidden layer is dropped'
        return why_not_here(x, first.weight)

    def __call__(self, ffn: FeedForward, x: Tensor) -> Tensor:
        (first, act, _), second, *rest = ffn.layers
        tensors = x, first.weight, first.bias, second.weight, second.bias
        keep = torch.is_grad_enabled() and any(part.requires_grad for part in tensors)
        out = TwoLayers.apply(*tensors, act.approximate, keep)
        for layer in rest:  # dropout, context broadcasting
            out = layer(out)
        return out


def plain_two_layers(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    approximate: str,
    keep: bool,
) -> Tensor:
    """As :class:`TwoLayers`, by PyTorch's operators."""
    hidden = F.gelu(F.linear(x, weight1, bias1), approximate=approximate)
    return F.linear(hidden, weight2, bias2)


class TwoLayers(Function):
    """W_2 GELU(W_1 x + b_1) + b_2, keeping W_1 x + b_1.

    Args:
        x (Tensor): (..., C).
        weight1 (Tensor): (D, C).
        bias1 (Tensor): (D).
        weight2 (Tensor): (O, D).
        bias2 (Tensor): (O).
        approximate (str): As in :class:`torch.nn.GELU`.
        keep (bool): Whether there will be a backward pass.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        approximate: str,
        keep: bool,
    ) -> Tensor:
        tokens = x.flatten(0, -2)
        out = x.new_empty(len(tokens), len(weight2))
        cuts, hidden = pieces_and_memory(tokens, len(weight1))
        before = x.new_empty(len(tokens), len(weight1)) if keep else None
        for cut in cuts:
            after = hidden[: cut.stop - cut.start]
            entering = before[cut] if keep else after
            torch.addmm(bias1, tokens[cut], weight1.t(), out=entering)
            gelu(entering, approximate=approximate, out=after)
            torch.addmm(bias2, after, weight2.t(), out=out[cut])
        if keep:
            ctx.save_for_backward(x, weight1, bias1, weight2, bias2, before)
            ctx.num_inputs, ctx.settings = 5, (approximate, keep)
        return out.unflatten(0, x.shape[:-1])

    @by_hand(plain_two_layers)
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, _, weight2, _, before = ctx.saved_tensors
        approximate, _ = ctx.settings
        tokens, grad = x.flatten(0, -2), grad.flatten(0, -2)
        grad_x = torch.empty_like(tokens)
        grad_weight1 = torch.zeros_like(weight1)
        grad_weight2 = torch.zeros_like(weight2)
        grad_bias1 = weight1.new_zeros(len(weight1))
        cuts, hidden = pieces_and_memory(tokens, len(weight1))
        for cut in cuts:
            entering, after = before[cut], hidden[: cut.stop - cut.start]
            gelu(entering, approximate=approximate, out=after)
            add_product(grad_weight2, grad[cut].t(), after)
            inner = linear(grad[cut], weight2.t())
            gelu_backward(inner, entering, approximate=approximate, grad_input=inner)
            grad_bias1 += inner.sum(dim=0)
            add_product(grad_weight1, inner.t(), tokens[cut])
            grad_x[cut] = linear(inner, weight1.t())
        grads = grad_weight1, grad_bias1, grad_weight2, grad.sum(dim=0)
        return grad_x.view_as(x), *grads


def pieces_and_memory(tokens: Tensor, hidden_dims: int) -> tuple[list[slice], Tensor]:
    """Pieces of the tokens, and memory for the hidden layer of one of them."""
    cuts = token_pieces(tokens, hidden_dims)
    return cuts, tokens.new_empty(cuts[0].stop if cuts else 0, hidden_dims)
