"""mmcv's feed-forward network, some tokens at a time on a CPU. (Ours.)

The hidden layer of a feature map is four times as wide as the map. On a CPU, writing
all of it to fresh memory costs more than its activation; in pieces it stays in the
cache between the two layers.
"""

import torch
from mmcv.cnn import Linear
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from ..keys.kernels.common import applies, autocast, is_untouched, token_pieces
from ..keys.kernels.linear import add_product, linear
from .context_broadcasting import ContextBroadcasting

gelu = torch.ops.aten.gelu.out
gelu_backward = torch.ops.aten.gelu_backward.grad_input


def adopt_ffn(stock: nn.Module, context_broadcasting: bool) -> nn.Module:
    """The feed-forward network of a block of ours.

    Args:
        stock (nn.Module): mmpretrain's; one of another class than :class:`FFN`, such
            as the SwiGLU of DINOv2's giant, stays as it is.
        context_broadcasting (bool): Broadcast the mean token at its end. A layer scale
            commutes with the mean over tokens, so the broadcast may come after it.

    Returns:
        nn.Module: The network, with the state dict of ``stock``.
    """
    if type(stock) is FFN:
        ours = PiecewiseFFN(stock)
        if context_broadcasting:
            ours.layers.append(ContextBroadcasting())
        return ours
    if context_broadcasting:
        drop = stock.dropout_layer
        stock.dropout_layer = nn.Sequential(ContextBroadcasting(), drop)
    return stock


class PiecewiseFFN(FFN):
    """Computes what a stock FFN computes, with the same state dict.

    On a CPU, two linear layers with GELU and no dropout between them go through pieces
    of the tokens, and only what enters GELU is kept for the backward pass. Elsewhere,
    and where a layer was replaced or has hooks, this is the stock FFN.

    Args:
        stock (FFN): The network whose layers to take over.
    """

    def __init__(self, stock: FFN) -> None:
        BaseModule.__init__(self)
        self.embed_dims = stock.embed_dims
        self.feedforward_channels = stock.feedforward_channels
        self.num_fcs = stock.num_fcs
        self.add_identity = stock.add_identity
        self.layers = stock.layers
        self.dropout_layer = stock.dropout_layer
        self.gamma2 = stock.gamma2

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Apply the layers and add the identity.

        Args:
            x (Tensor): (B, N, C).
            identity (Tensor, optional): What to add; ``x`` itself by default.

        Returns:
            Tensor: (B, N, C).
        """
        if not self.in_pieces(x):
            return super().forward(x, identity)
        (first, act, _), second, *rest = self.layers
        tensors = autocast(x, first.weight, first.bias, second.weight, second.bias)
        keep = torch.is_grad_enabled() and any(part.requires_grad for part in tensors)
        out = TwoLayers.apply(*tensors, act.approximate, keep)
        for layer in rest:  # dropout, context broadcasting
            out = layer(out)
        out = self.gamma2(out)
        if not self.add_identity:
            return self.dropout_layer(out)
        return (x if identity is None else identity) + self.dropout_layer(out)

    def in_pieces(self, x: Tensor) -> bool:
        """Whether the fast form applies."""
        if self.num_fcs != 2 or x.device.type != 'cpu':
            return False
        (first, act, dropout), second, *_ = self.layers
        return (
            applies(act, x)
            and all(is_untouched(each, nn.Linear, Linear) for each in (first, second))
            and not (self.training and dropout.p)
        )


class TwoLayers(Function):
    """W_2 GELU(W_1 x + b_1) + b_2, keeping W_1 x + b_1; no second derivative.

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
        with torch.autocast(x.device.type, enabled=False):
            for cut in cuts:
                after = hidden[: cut.stop - cut.start]
                entering = before[cut] if keep else after
                torch.addmm(bias1, tokens[cut], weight1.t(), out=entering)
                gelu(entering, approximate=approximate, out=after)
                torch.addmm(bias2, after, weight2.t(), out=out[cut])
        if keep:
            ctx.save_for_backward(x, weight1, weight2, before)
            ctx.approximate = approximate
        return out.unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, weight2, before = ctx.saved_tensors
        tokens, grad = x.flatten(0, -2), grad.flatten(0, -2)
        grad_x = torch.empty_like(tokens)
        grad_weight1 = torch.zeros_like(weight1)
        grad_weight2 = torch.zeros_like(weight2)
        grad_bias1 = weight1.new_zeros(len(weight1))
        cuts, hidden = pieces_and_memory(tokens, len(weight1))
        for cut in cuts:
            entering, after = before[cut], hidden[: cut.stop - cut.start]
            gelu(entering, approximate=ctx.approximate, out=after)
            add_product(grad_weight2, grad[cut].t(), after)
            inner = linear(grad[cut], weight2.t())
            gelu_backward(
                inner, entering, approximate=ctx.approximate, grad_input=inner
            )
            grad_bias1 += inner.sum(dim=0)
            add_product(grad_weight1, inner.t(), tokens[cut])
            grad_x[cut] = linear(inner, weight1.t())
        grads = grad_weight1, grad_bias1, grad_weight2, grad.sum(dim=0)
        return grad_x.view_as(x), *grads, None, None


def pieces_and_memory(tokens: Tensor, hidden_dims: int) -> tuple[list[slice], Tensor]:
    """Pieces of the tokens, and memory for the hidden layer of one of them."""
    cuts = token_pieces(tokens, hidden_dims)
    return cuts, tokens.new_empty(cuts[0].stop if cuts else 0, hidden_dims)
