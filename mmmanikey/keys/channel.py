"""Charts over channels: VanillaK, SimpleK and KUA.

The paper (https://arxiv.org/abs/2402.00534) names these strategies and says that charts
are group-wise 1-D convolutions; layer by layer they are our reading.

Every chart sees the same tokens, so "scale, then group-wise convolution" is one dense
product with the scale folded into the weights, and no H-fold copy of x is made.
"""

import copy
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import KEYS
from . import kernels
from .base import ManifoldKey, hidden_dims


class ChannelKey(ManifoldKey):
    """Charts whose first layer maps channels, conv1: C -> d for each chart.

    A strategy adds its other layers in :meth:`add_fusion`.

    Args:
        embed_dims (int): Channels C.
        num_charts (int): Charts H. Defaults to 8.
        hidden_ratio (float): r in the hidden width d = round(r C). Defaults to 1.0.
        act_cfg (dict, optional): Activation of the charts; ``None`` makes them linear.
            Defaults to ``dict(type='GELU')``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        embed_dims: int,
        num_charts: int = 8,
        hidden_ratio: float = 1.0,
        act_cfg: dict | None = dict(type='GELU'),  # noqa: B006
    ) -> None:
        super().__init__(embed_dims, num_charts, act_cfg)
        self.hidden_dims = hidden_dims(hidden_ratio, embed_dims)
        self.conv1 = self.grouped_conv(embed_dims, self.hidden_dims)
        self.add_fusion()
        self.reset_parameters()

    @abstractmethod
    def add_fusion(self) -> None:
        """Add the layers after conv1."""

    def grouped_conv(self, in_dims: int, out_dims: int, bias: bool = True) -> nn.Conv1d:
        """One pointwise convolution for each chart, chart-major."""
        charts = self.num_charts
        return nn.Conv1d(
            charts * in_dims, charts * out_dims, 1, groups=charts, bias=bias
        )

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        # unit-normal tokens give unit-normal pre-activations
        nn.init.trunc_normal_(self.conv1.weight, std=self.embed_dims**-0.5)
        nn.init.zeros_(self.conv1.bias)

    def folded_conv1(self) -> Tensor:
        """conv1 with the scale folded in, one dense weight (H*d, C)."""
        weight = self.conv1.weight.view(self.num_charts, -1, self.embed_dims)
        return (weight * self.scale[:, None]).flatten(0, 1)

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden activations of all charts, (B, N, H*d), chart-major."""
        self.check_tokens(x)
        return self.act(F.linear(x, self.folded_conv1(), self.conv1.bias))

    def sum_charts(
        self, x: Tensor, weight: Tensor, gate: Tensor | None = None
    ) -> Tensor:
        """Sum of the charts' perceptrons without keeping their hidden layers.

        Args:
            x (Tensor): (B, N, C).
            weight (Tensor): Second layers, (H, C, d), or (1, C, d) for a shared one.
            gate (Tensor, optional): Weights of the charts, (B, N, H).

        Returns:
            Tensor: (B, N, C).
        """
        self.check_tokens(x)
        charts = self.num_charts
        return kernels.chart_mlp(
            x,
            self.scale,
            self.conv1.weight.view(charts, -1, self.embed_dims),
            self.conv1.bias.view(charts, -1),
            weight,
            gate,
            self.act.approximate,
        )

    def reference_hidden(self, x: Tensor) -> Tensor:
        """The same by expansion and group-wise convolution, (B, H*d, N)."""
        self.check_tokens(x)
        x = x.transpose(1, 2)  # (B, C, N)
        charts = self.scale[:, :, None] * x[:, None]  # (B, H, C, N)
        return self.act(self.conv1(charts.flatten(1, 2)))  # (B, H*d, N)

    def fold_with(self, weight: Tensor) -> nn.Sequential:
        """Linear(C -> H*d), activation, Linear(H*d -> C) with ``weight`` (C, H*d)."""
        first = nn.utils.skip_init(nn.Linear, self.embed_dims, weight.shape[1])
        last = nn.utils.skip_init(nn.Linear, *weight.shape[::-1], bias=False)
        mlp = nn.Sequential(first, copy.deepcopy(self.act), last).to(weight)
        with torch.no_grad():
            first.weight.copy_(self.folded_conv1())
            first.bias.copy_(self.conv1.bias)
            last.weight.copy_(weight)
        return mlp


class TwoLayerKey(ChannelKey):
    """Charts with a second layer over channels, conv2: d -> C for each chart."""

    conv2_bias: bool

    def add_fusion(self) -> None:
        self.conv2 = self.grouped_conv(
            self.hidden_dims, self.embed_dims, bias=self.conv2_bias
        )

    def reset_parameters(self) -> None:
        super().reset_parameters()
        std = self.last_layer_std(self.hidden_dims)
        nn.init.trunc_normal_(self.conv2.weight, std=std)

    def chart_weights2(self) -> Tensor:
        """conv2's weight of each chart, (H, C, d)."""
        return self.conv2.weight.view(self.num_charts, self.embed_dims, -1)

    def zero_last_layer(self) -> None:
        nn.init.zeros_(self.conv2.weight)

    def summed_conv2(self) -> Tensor:
        """conv2 and a sum over the charts as one dense weight (C, H*d)."""
        return self.chart_weights2().transpose(0, 1).flatten(1)

    def reference_charts(self, x: Tensor) -> Tensor:
        """The charts before fusion, (B, H, C, N)."""
        charts = self.conv2(self.reference_hidden(x))  # (B, H*C, N)
        return charts.unflatten(1, (self.num_charts, self.embed_dims))


@KEYS.register_module()
class VanillaK(TwoLayerKey):
    """A two-layer MLP for each chart, and the mean of the charts.

    .. code-block:: text

        k = mean_h conv2_h(GELU(conv1_h(s_h * x)))

    conv2 has no bias: a constant added to every key adds the same number to all logits
    of a query, which softmax ignores. As a function of x this is one MLP of hidden
    width H*d, and :meth:`fold` returns it. Cost per token: 2 H d C
    multiply-accumulates. Arguments as in :class:`ChannelKey`.
    """

    conv2_bias = False

    def forward(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        if kernels.applies(self.act, x):
            return self.sum_charts(x, self.chart_weights2()) / self.num_charts
        return F.linear(self.hidden(x), self.summed_conv2() / self.num_charts)

    def reference_forward(
        self, x: Tensor, hw_shape: tuple[int, int] | None = None
    ) -> Tensor:
        return self.reference_charts(x).mean(dim=1).transpose(1, 2)  # (B, N, C)

    def fold(self) -> nn.Sequential:
        """The same function as a dense MLP, C -> H*d -> C, for inference."""
        return self.fold_with(self.summed_conv2() / self.num_charts)


@KEYS.register_module()
class SimpleK(ChannelKey):
    """One layer for each chart, their mean, then one shared linear layer.

    .. code-block:: text

        k = out(mean_h GELU(conv1_h(s_h * x)))

    This is :class:`VanillaK` with one second layer shared by all charts; ``out`` has no
    bias for the same reason. Cost per token: H d C + d C multiply-accumulates.
    Arguments as in :class:`ChannelKey`.
    """

    def add_fusion(self) -> None:
        self.out = nn.Linear(self.hidden_dims, self.embed_dims, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        std = self.last_layer_std(self.hidden_dims)
        nn.init.trunc_normal_(self.out.weight, std=std)

    def zero_last_layer(self) -> None:
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        if kernels.applies(self.act, x) and kernels.is_untouched(self.out, nn.Linear):
            return self.sum_charts(x, self.out.weight[None]) / self.num_charts
        return self.out(self.features(x))

    def features(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        """Mean of the charts, which ``out`` makes the key of, (B, N, d)."""
        hidden = self.hidden(x).unflatten(-1, (self.num_charts, -1))  # (B, N, H, d)
        return hidden.mean(dim=2)

    def reference_forward(
        self, x: Tensor, hw_shape: tuple[int, int] | None = None
    ) -> Tensor:
        charts = self.reference_hidden(x).unflatten(1, (self.num_charts, -1))
        return self.out(charts.mean(dim=1).transpose(1, 2))  # (B, N, C)

    def fold(self) -> nn.Sequential:
        """The same function as a dense MLP, C -> H*d -> C, for inference."""
        return self.fold_with(
            self.out.weight.repeat(1, self.num_charts) / self.num_charts
        )


@KEYS.register_module()
class KUA(TwoLayerKey):
    """Chart MLPs weighted per token by soft memberships.

    .. code-block:: text

        q = softmax_h(membership(x))
        k = sum_h q_h * conv2_h(GELU(conv1_h(s_h * x)))

    The memberships follow the unbalanced atlas of the same authors
    (https://arxiv.org/abs/2305.10267), from which the strategy has its name; how they
    enter the key is our reading. conv2's bias is weighted per token, so the attention
    sees it and it stays. A mixture gated per token does not fold. Cost per token:
    2 H d C + H C multiply-accumulates. Arguments as in :class:`ChannelKey`.
    """

    conv2_bias = True

    #: Deviation of the membership logits at the start. Small, so that the memberships
    #: begin near 1/H, yet not zero: equal memberships hide conv2's bias from softmax.
    start_logit_std = 0.2

    def add_fusion(self) -> None:
        super().add_fusion()
        self.membership = nn.Linear(self.embed_dims, self.num_charts)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.conv2.bias)
        std = self.start_logit_std * self.embed_dims**-0.5
        nn.init.trunc_normal_(self.membership.weight, std=std)
        nn.init.zeros_(self.membership.bias)

    def zero_last_layer(self) -> None:
        super().zero_last_layer()
        nn.init.zeros_(self.conv2.bias)

    def memberships(self, x: Tensor) -> Tensor:
        """Weights of the charts for each token, (B, N, H), summing to one."""
        return self.membership(x).softmax(dim=-1)

    def forward(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        self.check_tokens(x)
        weights = self.memberships(x)
        bias = self.conv2.bias.view(self.num_charts, self.embed_dims)
        # as a product of matrices: exporters would fix the batch of a batched one
        bias = (weights.flatten(0, 1) @ bias).view_as(x)
        if kernels.applies(self.act, x):
            return self.sum_charts(x, self.chart_weights2(), weights) + bias
        hidden = self.hidden(x).unflatten(-1, (self.num_charts, -1))  # (B, N, H, d)
        gated = hidden * weights[..., None].to(hidden.dtype)
        return F.linear(gated.flatten(2), self.summed_conv2()) + bias

    def reference_forward(
        self, x: Tensor, hw_shape: tuple[int, int] | None = None
    ) -> Tensor:
        weights = self.memberships(x).transpose(1, 2)  # (B, H, N)
        charts = self.reference_charts(x)  # (B, H, C, N)
        return (weights[:, :, None] * charts).sum(dim=1).transpose(1, 2)
