"""mmcv's feed-forward network, some tokens at a time."""

from typing import ClassVar

import torch
from mmcv.cnn import Linear
from mmengine.model import Sequential
from torch import Tensor, nn

from ..backbones.ffn import FeedForward
from .choice import Form, register
from .crossovers import why_small
from .gradients import compute
from .linear import must_be_exact
from .perceptron import Perceptron
from .pieces import autocast, why_not_here


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
        if len(ffn.layers) < 3 or len(ffn.layers[0]) != 3:
            return 'there are other layers'
        (first, _, dropout), second, *_ = ffn.layers
        if first.bias is None or second.bias is None:
            return 'a layer has no bias'
        if dropout.training and dropout.p:
            return 'the hidden layer is dropped'
        if x.device.type == 'cuda' and not torch.is_grad_enabled():
            return 'nothing is kept without gradients'  # and there is no cache to win
        refused = why_not_here(x, first.weight)
        if not refused and must_be_exact(ffn.has_linear_key):
            refused = why_small(self.name, x)
        return refused

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
