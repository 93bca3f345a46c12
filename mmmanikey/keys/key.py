"""What every manifold key shares: charts, their scale, and a matched start.

Source of the idea: Meng, Goodwin, Yazidi, Engelstad, *A Manifold Representation of the
Key in Vision Transformers*, Section 3 and Figure 1 (https://arxiv.org/abs/2402.00534).
The paper expands the input into charts with a trainable scale, maps each chart with
group-wise 1-D convolutions, and fuses the charts to one key. Shapes, widths and the
initialisation are our reading of it.
"""

import math
from abc import ABCMeta, abstractmethod

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from .. import forms
from ..arguments import positive_int
from ..forms.rule import untraced
from .activation import activation_std, build_activation

STOCK_STD = 0.02  # of the linear key's weights in Swin, DeiT and their descendants


class ManifoldKey(BaseModule, metaclass=ABCMeta):
    """A key made of H charts: expand, map each chart, fuse.

    .. code-block:: text

        expand    u_h = s_h * x            h = 1..H
        chart     z_h = phi_h(u_h)
        fuse      k   = fusion(z_1 .. z_H)

    A strategy is two methods of plain code, :meth:`charts` and :meth:`fuse`, and its
    layers: ``conv1`` comes first, and :attr:`last` names the last one. A key with other
    layers overrides :meth:`reset_parameters` and :meth:`zero_last_layer`. Its
    constructor ends with a call of :meth:`reset_parameters`. A strategy is
    registered in :data:`mmmanikey.registry.KEYS`. What computes the same faster is in
    :mod:`mmmanikey.forms`.

    Args:
        embed_dims (int): Channels C of the tokens.
        num_charts (int): Number of charts H. Defaults to 8.
        act_cfg (dict, optional): The charts' activation, one of torch.nn's by name that
            acts on each value alone; ``None`` makes the charts linear. Defaults to
            ``dict(type='GELU')``.
        out_dims (int, optional): Channels of the key, the width of the last layer.
            Defaults to ``None``, C. (Not from the paper.)

    Raises:
        ValueError: If a number is not a positive integer, or the activation unknown or
            no function of single values.
        TypeError: If ``act_cfg`` is no dict.
    """

    #: Whether the strategy is bound to one window, which the attention then gives it.
    needs_window = False
    #: Names of its parameters that weight decay leaves out, see ``decay.py`` here.
    free_of_decay: tuple[str, ...] = ('scale',)
    #: Name of the layer that zeroes the key where its weights are zero.
    last = 'out'
    #: Whether it is added to a linear key and is zero at the start, see
    #: :func:`.build_key`.
    residual = False

    def __init__(
        self,
        embed_dims: int,
        num_charts: int = 8,
        act_cfg: dict | None = dict(type='GELU'),  # noqa: B006
        out_dims: int | None = None,
    ) -> None:
        super().__init__()
        self.embed_dims = positive_int('embed_dims', embed_dims)
        out_dims = embed_dims if out_dims is None else out_dims
        self.out_dims = positive_int('out_dims', out_dims)
        self.num_charts = positive_int('num_charts', num_charts)
        self.act = build_activation(act_cfg)
        self.act_std = activation_std(act_cfg)
        self.scale = nn.Parameter(torch.ones(num_charts, embed_dims))

    def forward(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        """Make the key.

        Args:
            x (Tensor): Tokens of shape (B, N, C) after the attention's LayerNorm, any
                floating dtype.
            hw_shape (tuple[int, int], optional): Height and width of the token grid
                at the end of the N tokens. Strategies over channels ignore it.

        Returns:
            Tensor: The key, (B, N, out_dims).

        Raises:
            ValueError: If the tokens do not fit.
        """
        if x.dim() != 3 or x.shape[-1] != self.embed_dims:
            raise ValueError(
                f'{type(self).__name__} expects tokens of shape (B, N, '
                f'{self.embed_dims}), got {tuple(x.shape)}'
            )
        form = forms.find(self, x, hw_shape)
        if form is not None:
            return form(self, x, hw_shape)
        return self.fuse(self.charts(x, hw_shape), x)

    @abstractmethod
    def charts(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        """The charts of the tokens (B, N, C), each before fusion, (B, H, N, d)."""

    @abstractmethod
    def fuse(self, z: Tensor, x: Tensor) -> Tensor:
        """The key (B, N, out_dims) of the charts (B, H, N, d) and tokens (B, N, C)."""

    def memberships(self, x: Tensor) -> Tensor | None:
        """Weights of the charts for each token, (B, N, H); None if all count alike."""
        return None

    def expand(self, x: Tensor) -> Tensor:
        """The tokens (B, N, C) scaled for each chart, (B, H, N, C)."""
        return self.scale[:, None] * x[:, None]

    def reset_parameters(self) -> None:
        """Draw the matched start (see :meth:`last_layer_std`).

        Unit-normal tokens give unit-normal values before the activation.
        """
        last = getattr(self, self.last)
        nn.init.ones_(self.scale)
        draw(self.conv1, num_inputs(self.conv1) ** -0.5)
        draw(last, self.last_layer_std(num_inputs(last)))

    def zero_last_layer(self) -> None:
        """Make the key zero; a residual key starts like this."""
        for parameter in getattr(self, self.last).parameters():
            nn.init.zeros_(parameter)

    def init_weights(self) -> None:
        """Restore the matched start after an outer ``init_cfg`` touched our layers."""
        first = not self.is_init
        super().init_weights()  # warns where it is not the first call
        if first:
            self.reset_parameters()
            if self.residual:
                self.zero_last_layer()

    def last_layer_std(self, fan_in: int) -> float:
        r"""Weight deviation at which the key varies as much as the stock key does.

        With unit-variance pre-activations and independent weights of deviation
        :math:`\sigma`, a mean over H charts with ``fan_in`` hidden channels each varies
        over tokens by :math:`\sigma g \sqrt{\text{fan\_in} / H}`, where g is the
        deviation of the activation; the stock key varies by
        :math:`0.02 \sqrt{C}`. The mean's :math:`1/\sqrt H` is thus made up for. (Not
        from the paper.)
        """
        ratio = self.embed_dims * self.num_charts / fan_in
        return STOCK_STD * math.sqrt(ratio) / self.act_std


def num_inputs(layer: nn.Module) -> int:
    """How many numbers each output of a layer is made of."""
    return layer.weight[0].numel()


@untraced
def draw(layer: nn.Module, std: float) -> None:
    """Truncated normal weights, and a bias of zero."""
    nn.init.trunc_normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def grouped_conv(
    charts: int, in_dims: int, out_dims: int, bias: bool = True
) -> nn.Conv1d:
    """A convolution of kernel size 1 for each chart, chart-major: one group a chart."""
    return nn.Conv1d(charts * in_dims, charts * out_dims, 1, groups=charts, bias=bias)


def is_grouped(conv: nn.Conv1d, charts: int) -> bool:
    """Whether it is a convolution as :func:`grouped_conv` makes them."""
    settings = conv.groups, conv.kernel_size, conv.stride, conv.padding
    return settings == (charts, (1,), (1,), (0,))
