"""mmcv's feed-forward network, some tokens at a time."""

import torch
from torch import Tensor

from ..backbones.ffn import FeedForward
from .choice import Form, register
from .crossovers import why_small
from .gradients import compute
from .linear import must_be_exact
from .perceptron import FFN_LAYERS, Perceptron, why_other_ffn
from .pieces import autocast


@register(FeedForward)
class TokensInPieces(Form):
    """Both layers for some tokens; what enters GELU is kept, and what leaves it not."""

    name = 'tokens in pieces'
    replaces = FFN_LAYERS

    def why_slow(self, ffn: FeedForward, x: Tensor) -> str | None:
        if x.is_cuda and not torch.is_grad_enabled():
            return 'nothing is kept without gradients'  # and there is no cache to win
        small = why_small(self.name, x)
        return small if small and must_be_exact(ffn.has_linear_key) else None

    def why_not(self, ffn: FeedForward, x: Tensor) -> str | None:
        return why_other_ffn(ffn, x)

    def __call__(self, ffn: FeedForward, x: Tensor) -> Tensor:
        (first, act, _), second, *rest = ffn.layers
        tokens = x.reshape(-1, x.shape[-1])
        tensors = tokens, first.weight, first.bias, second.weight, second.bias
        tensors = autocast(*tensors)
        keeps = torch.is_grad_enabled() and any(part.requires_grad for part in tensors)
        exact = must_be_exact(ffn.has_linear_key)
        out = compute(Perceptron(*tensors, None, keeps, exact, act.approximate))
        out = out.view(*x.shape[:-1], len(second.weight))
        for layer in rest:  # dropout, context broadcasting
            out = layer(out)
        return out
