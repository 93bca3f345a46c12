"""Forms of the keys whose charts are over channels: VanillaK, SimpleK and KUA."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..keys.kua import KUA
from ..keys.simple import SimpleK
from ..keys.vanilla import VanillaK
from .chart_mlp import chart_mlp
from .choice import Form, register
from .folding import folded_conv1, summed_conv2
from .pieces import why_not_half, why_not_here


@register(VanillaK, SimpleK, KUA)
class ChartsInPieces(Form):
    """One chart and some tokens at a time, and no chart kept for the backward pass."""

    name = 'charts in pieces'
    replaces = dict(conv1=nn.Conv1d, conv2=nn.Conv1d, out=nn.Linear, act=nn.GELU)

    def why_not(self, key: nn.Module, x: Tensor, hw_shape: object) -> str | None:
        return why_not_here(x, key.scale)

    def __call__(self, key: nn.Module, x: Tensor, hw_shape: object) -> Tensor:
        charts = key.num_charts
        weight1 = key.conv1.weight.view(charts, -1, key.embed_dims)
        first = key.scale, weight1, key.conv1.bias.view(charts, -1)
        approximate = key.act.approximate
        if isinstance(key, SimpleK):
            out = chart_mlp(x, *first, key.out.weight[None], None, approximate)
            return out / charts
        weight2 = key.conv2.weight.view(charts, key.embed_dims, -1)
        if not isinstance(key, KUA):
            return chart_mlp(x, *first, weight2, None, approximate) / charts
        q = key.memberships(x)
        return chart_mlp(x, *first, weight2, q, approximate) + gated_bias(key, q)


@register(VanillaK, SimpleK, KUA)
class DenseCharts(Form):
    """The charts as dense layers, for any activation, tracers and compilers."""

    name = 'dense charts'
    replaces = dict(conv1=nn.Conv1d, conv2=nn.Conv1d)

    def why_not(self, key: nn.Module, x: Tensor, hw_shape: object) -> str | None:
        return why_not_half(x)

    transparent = True

    def __call__(self, key: nn.Module, x: Tensor, hw_shape: object) -> Tensor:
        hidden = key.act(F.linear(x, folded_conv1(key), key.conv1.bias))
        if isinstance(key, SimpleK):  # (B, N, H * d)
            return key.out(hidden.unflatten(-1, (key.num_charts, -1)).mean(dim=2))
        if not isinstance(key, KUA):
            return F.linear(hidden, summed_conv2(key) / key.num_charts)
        q = key.memberships(x)
        gated = hidden.unflatten(-1, (key.num_charts, -1)) * q[..., None].to(hidden)
        return F.linear(gated.flatten(2), summed_conv2(key)) + gated_bias(key, q)


def gated_bias(key: KUA, q: Tensor) -> Tensor:
    """conv2's bias weighted by the memberships q (B, N, H), (B, N, C).

    As a product of matrices: exporters would fix the batch of a batched one.
    """
    bias = key.conv2.bias.view(key.num_charts, -1)
    return (q.flatten(0, 1) @ bias).view(*q.shape[:2], key.embed_dims)
