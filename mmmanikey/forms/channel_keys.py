"""Forms of the keys whose charts are over channels: VanillaK, SimpleK and KUA."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..keys.key import is_grouped
from ..keys.kua import KUA
from ..keys.simple import SimpleK
from ..keys.vanilla import VanillaK
from .chart_mlp import ChartMLP
from .choice import Form, register
from .folding import folded_conv1, summed_conv2
from .gradients import compute
from .perceptron import Perceptron
from .pieces import autocast, why_not_half, why_not_here


@register(VanillaK, SimpleK, KUA)
class ChartsInPieces(Form):
    """One chart and some tokens at a time, and no chart kept for the backward pass."""

    name = 'charts in pieces'
    replaces = dict(conv1=nn.Conv1d, conv2=nn.Conv1d, out=nn.Linear, act=nn.GELU)

    def why_not(self, key: nn.Module, x: Tensor, hw_shape: object) -> str | None:
        if x.device.type != 'cpu':
            return f'the device is {x.device.type}'
        return why_other_layers(key) or why_not_here(x, key.scale)

    def __call__(self, key: nn.Module, x: Tensor, hw_shape: object) -> Tensor:
        charts, dims = key.scale.shape
        q = key.memberships(x) if isinstance(key, KUA) else None
        if isinstance(key, SimpleK):
            weight2 = key.out.weight[None]
        else:
            weight2 = key.conv2.weight.view(charts, key.out_dims, -1)
        weight1 = key.conv1.weight.view(charts, -1, dims)
        bias1 = key.conv1.bias.view(charts, -1)
        tokens, gate = x.reshape(-1, dims), None if q is None else q.flatten(0, 1)
        tensors = autocast(tokens, key.scale, weight1, bias1, weight2, gate)
        total = compute(ChartMLP(*tensors, key.act.approximate))
        total = total.view(*x.shape[:-1], key.out_dims)
        return total / charts if q is None else total + gated_bias(key, q)


@register(VanillaK, SimpleK, KUA)
class ChartsAtOnce(Form):
    """All charts of some tokens, and none kept for the backward pass, for CUDA.

    One large product takes the place of one for each chart.
    """

    name = 'charts at once'
    replaces = dict(conv1=nn.Conv1d, conv2=nn.Conv1d, out=nn.Linear, act=nn.GELU)

    def why_not(self, key: nn.Module, x: Tensor, hw_shape: object) -> str | None:
        if x.device.type != 'cuda':
            return f'the device is {x.device.type}'
        return why_other_layers(key) or why_not_here(x, key.scale)

    def __call__(self, key: nn.Module, x: Tensor, hw_shape: object) -> Tensor:
        q = key.memberships(x) if isinstance(key, KUA) else None
        if isinstance(key, SimpleK):
            second = key.out.weight.repeat(1, key.num_charts) / key.num_charts
        else:
            second = summed_conv2(key) / (1 if q is not None else key.num_charts)
        gate = None if q is None else q.flatten(0, 1)
        tokens, first = x.reshape(-1, x.shape[2]), folded_conv1(key)
        tensors = autocast(tokens, first, key.conv1.bias, second, None, gate)
        total = compute(Perceptron(*tensors, False, False, key.act.approximate))
        total = total.view(*x.shape[:-1], key.out_dims)
        return total if q is None else total + gated_bias(key, q)


@register(VanillaK, SimpleK, KUA)
class DenseCharts(Form):
    """The charts as dense layers, for any activation, tracers and compilers."""

    name = 'dense charts'
    replaces = dict(conv1=nn.Conv1d, conv2=nn.Conv1d)

    def why_not(self, key: nn.Module, x: Tensor, hw_shape: object) -> str | None:
        return why_other_layers(key) or why_not_half(x)

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


def why_other_layers(key: nn.Module) -> str | None:
    """Why a key's layers are not those that its class makes, or None if they are."""
    last = getattr(key, key.last)
    for conv in (key.conv1, last):
        if not isinstance(conv, nn.Conv1d):
            continue
        if not is_grouped(conv, key.num_charts):
            return 'a convolution is not one of 1 x 1 for each chart'
        if conv.weight.dtype != key.scale.dtype:
            return f'the dtypes are {key.scale.dtype} and {conv.weight.dtype}'
    has_bias = getattr(last, 'bias', None) is not None
    if key.conv1.bias is None or has_bias != isinstance(key, KUA):
        return 'a layer has, or lacks, a bias'
    return None


def gated_bias(key: KUA, q: Tensor) -> Tensor:
    """conv2's bias weighted by the memberships q (B, N, H), (B, N, C).

    As a product of matrices: exporters would fix the batch of a batched one.
    """
    bias = key.conv2.bias.view(key.num_charts, -1)
    return (q.flatten(0, 1) @ bias).view(*q.shape[:2], key.out_dims)
