"""Forms of SpatialK: its charts averaged without keeping them."""

import torch
from torch import Tensor, nn

from ..keys.key import is_grouped
from ..keys.spatial import SpatialK
from . import triton_choice
from .choice import Form, register
from .gradients import compute
from .linear import apply_linear
from .pieces import autocast, why_not_half, why_not_here
from .rule import is_compiling, is_exported
from .token_mixing import TokenMixing, chart_by_chart, charts_at_once

HWShape = tuple[int, int] | None


class MeanOfCharts(Form):
    """A form that computes the mean over the charts of whole windows."""

    #: What computes it, where that is no code of PyTorch's modules.
    kind: type[TokenMixing] | None = None

    def why_not(self, key: SpatialK, x: Tensor, hw_shape: HWShape) -> str | None:
        if key.conv1.bias is None or not is_grouped(key.conv1, key.num_charts):
            return 'conv1 is not a convolution of 1 x 1 for each chart with a bias'
        return None

    def mean(self, key: SpatialK, windows: Tensor) -> Tensor:
        """(W, N, C) to (W, N, C)."""
        (windows,) = autocast(windows)
        return compute(self.kind(windows, *parameters_of(key), key.act.approximate))

    def __call__(self, key: SpatialK, x: Tensor, hw_shape: HWShape) -> Tensor:
        extra, windows = key.split(x, hw_shape)
        mean = self.mean(key, windows)
        if hw_shape is not None:  # (B, N, C)
            of_extra = key.act(key.expand(extra)).mean(dim=1)
            mean = key.join(mean[:, None], hw_shape)[:, 0]
            mean = torch.cat([of_extra, mean], dim=1)
        return key.out(mean) if self.transparent else apply_linear(key.out, mean)


@register(SpatialK)
class MixingInTriton(MeanOfCharts):
    """Triton's kernels, for CUDA."""

    name = 'Triton'
    replaces = dict(conv1=nn.Conv1d, act=nn.GELU)

    @property
    def kind(self) -> type[TokenMixing]:
        # here, as Triton need not be installed
        from .triton_mixing import TritonMixing

        return TritonMixing

    def why_not(self, key: SpatialK, x: Tensor, hw_shape: HWShape) -> str | None:
        if not key.triton:
            return 'the key has triton=False'
        parameters = key.conv1.weight, key.conv1.bias, key.scale
        return super().why_not(key, x, hw_shape) or triton_choice.why_not(
            key.num_tokens, x, *parameters
        )


@register(SpatialK)
class MixingInPieces(MeanOfCharts):
    """Some windows at a time, and no chart kept for the backward pass."""

    name = 'mixing in pieces'
    kind = TokenMixing
    replaces = dict(conv1=nn.Conv1d, act=nn.GELU)

    def why_not(self, key: SpatialK, x: Tensor, hw_shape: HWShape) -> str | None:
        refused = super().why_not(key, x, hw_shape)
        return refused or why_not_here(x, key.scale, key.conv1.weight, key.conv1.bias)


@register(SpatialK)
class ChartByChart(MeanOfCharts):
    """One chart at a time for tracers, all for compilers, with any activation."""

    name = 'chart by chart'
    replaces = dict(conv1=nn.Conv1d)

    def why_not(self, key: SpatialK, x: Tensor, hw_shape: HWShape) -> str | None:
        return super().why_not(key, x, hw_shape) or why_not_half(x)

    transparent = True

    def mean(self, key: SpatialK, windows: Tensor) -> Tensor:
        parameters = key.conv1.weight, key.conv1.bias, key.scale
        compiled = is_compiling() and not is_exported()
        mean = charts_at_once if compiled else chart_by_chart
        return mean(windows, *parameters, key.act)


def parameters_of(key: SpatialK) -> tuple[Tensor, Tensor, Tensor]:
    """Those of the charts, as :class:`TokenMixing` takes them."""
    return key.conv1.weight.flatten(1), key.conv1.bias, key.scale
