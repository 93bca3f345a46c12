"""The form of ViT's attention: its linear layers by oneDNN."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attention.vit import ManifoldKeyAttention
from .choice import Form, register
from .linear import apply_linear, must_be_exact, onednn_applies
from .pieces import why_not_here


@register(ManifoldKeyAttention)
class ProjectionsByOneDNN(Form):
    """The plain code, but for how query, value, linear key and output are projected."""

    name = 'projections by oneDNN'
    replaces: ClassVar = {'qkv': nn.Linear, 'qv': nn.Linear, 'proj': nn.Linear}

    def why_not(
        self, layer: nn.Module, x: Tensor, hw_shape: tuple[int, int]
    ) -> str | None:
        if not onednn_applies(x):
            return f'oneDNN does not serve {x.dtype} on {x.device.type} here'
        if must_be_exact(layer.has_linear_key) and not torch.is_grad_enabled():
            return 'outputs round as the stock ones, and no gradients are wanted'
        return why_not_here(x, layer.proj.weight)

    def __call__(
        self, layer: nn.Module, x: Tensor, hw_shape: tuple[int, int]
    ) -> Tensor:
        exact = must_be_exact(layer.has_linear_key)
        return layer.attend(x, hw_shape, partial(apply_linear, exact=exact))
