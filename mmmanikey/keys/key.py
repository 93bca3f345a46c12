"""What every manifold key shares: charts, their scale, and a matched start.

Source of the idea: Meng, Goodwin, Yazidi, Engelstad, *A Manifold Representation of the
Key in Vision Transformers*, Section 3 and Figure 1 (https://arxiv.org/abs/2402.00534).
The paper expands the input into charts with a trainable scale, maps each chart with
group-wise 1-D convolutions, and fuses the charts to one key. Shapes, widths and the
initialisation are our reading of it.
"""

import copy
import inspect
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from .. import forms
from ..arguments import positive_int, positive_number, switch
from ..forms.rule import has_fake_tensors, real_tensors
from ..registry import KEYS

STOCK_STD = 0.02  # of the linear key's weights in Swin, DeiT and their descendants


def hidden_dims(hidden_ratio: float, embed_dims: int) -> int:
    """Width of a chart's hidden layer, d = round(r * C)."""
    dims = round(positive_number('hidden_ratio', hidden_ratio) * embed_dims)
    if dims < 1:
        raise ValueError(
            f'hidden_ratio {hidden_ratio} of embed_dims {embed_dims} rounds to no '
            'hidden channel at all'
        )
    return dims


def build_activation(act_cfg: dict | None) -> nn.Module:
    """Build torch's activation named by ``act_cfg['type']``; ``None`` is linear.

    Args:
        act_cfg (dict, optional): Its name and arguments.

    Returns:
        nn.Module: It gives one number for each number, and always the same.

    Raises:
        TypeError: If ``act_cfg`` is no dict.
        ValueError: If it names no activation, or one that does something else.
    """
    if act_cfg is None:
        return nn.Identity()
    if not isinstance(act_cfg, dict) or 'type' not in act_cfg:
        raise TypeError(f"act_cfg must be None or a dict with 'type', got {act_cfg!r}")
    args = dict(act_cfg)
    name = args.pop('type')
    if name not in nn.modules.activation.__all__:
        raise ValueError(f'act_cfg names no activation of torch.nn: {name!r}')
    try:
        with real_tensors():
            flaw = flaw_in_activation(getattr(nn, name)(**args).double())
    except Exception as error:  # some notice a wrong argument when they are used
        raise ValueError(f'act_cfg {act_cfg!r} does not work: {error}') from error
    if flaw:
        raise ValueError(f'act_cfg {act_cfg!r} {flaw}: take one like GELU or ReLU')
    return getattr(nn, name)(**args)


@torch.no_grad()
def flaw_in_activation(act: nn.Module) -> str | None:
    """Why ``act``, in float64, is no function of single values, or None if it is.

    Charts lay their channels and tokens out in several ways, and the fast forms cut
    them into pieces: what an activation makes of a value must depend on nothing else.
    """
    values = torch.linspace(-4, 4, 12, dtype=torch.float64)
    outs = [act(values.reshape(shape).clone()) for shape in ((6, 2), (3, 4), (2, 3, 2))]
    if any(out.numel() != len(values) for out in outs):
        return 'changes the number of channels'
    single = torch.cat([act(value.view(1, 1).clone()).flatten() for value in values])
    if not all(torch.allclose(out.flatten(), single) for out in outs):
        return 'makes of a value what depends on others or on chance'
    return None


def activation_std(act_cfg: dict | None, points: int = 4096) -> float:
    """Standard deviation of ``act(z)`` for a standard normal ``z``.

    Measured on the midpoints of ``points`` equally likely slices of the normal
    distribution, so the value is the same on every run; and by an activation of its
    own, as that of a network built on the meta device holds no numbers.
    """
    with real_tensors(), torch.no_grad():
        slices = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        act = build_activation(act_cfg).double().eval()
        return float(act(torch.special.ndtri(slices)).std())


class ManifoldKey(BaseModule, metaclass=ABCMeta):
    """A key made of H charts: expand, map each chart, fuse.

    .. code-block:: text

        expand    u_h = s_h * x            h = 1..H
        chart     z_h = phi_h(u_h)
        fuse      k   = fusion(z_1 .. z_H)

    A strategy is two methods of plain code, :meth:`charts` and :meth:`fuse`, and how it
    starts, :meth:`reset_parameters` and :meth:`zero_last_layer`. It is registered in
    :data:`mmmanikey.registry.KEYS`. What computes the same faster is in
    :mod:`mmmanikey.forms`.

    Args:
        embed_dims (int): Channels C of the tokens and of the key.
        num_charts (int): Number of charts H. Defaults to 8.
        act_cfg (dict, optional): The charts' activation, one of torch.nn's by name that
            acts on each value alone; ``None`` makes the charts linear. Defaults to
            ``dict(type='GELU')``.

    Raises:
        ValueError: If a number is not a positive integer, or the activation unknown or
            no function of single values.
        TypeError: If ``act_cfg`` is no dict.
    """

    #: Whether the strategy is bound to one window, which the attention then gives it.
    needs_window = False
    #: Names of its parameters that weight decay leaves out, see ``decay.py`` here.
    free_of_decay: tuple[str, ...] = ('scale',)
    #: Whether it is added to a linear key and is zero at the start, see
    #: :func:`build_key`.
    residual = False

    def __init__(
        self,
        embed_dims: int,
        num_charts: int = 8,
        act_cfg: dict | None = dict(type='GELU'),  # noqa: B006
    ) -> None:
        super().__init__()
        self.embed_dims = positive_int('embed_dims', embed_dims)
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
            Tensor: The key, (B, N, C).

        Raises:
            ValueError: If the tokens do not fit.
        """
        self.check_tokens(x)
        form = forms.find(self, x, hw_shape)
        if form is not None:
            return form(self, x, hw_shape)
        return self.fuse(self.charts(x, hw_shape), x)

    @abstractmethod
    def charts(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        """The charts of the tokens (B, N, C), each before fusion, (B, H, N, d)."""

    @abstractmethod
    def fuse(self, z: Tensor, x: Tensor) -> Tensor:
        """The key (B, N, C) of the charts (B, H, N, d) and the tokens (B, N, C)."""

    def memberships(self, x: Tensor) -> Tensor | None:
        """Weights of the charts for each token, (B, N, H); None if all count alike."""
        return None

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw the matched start (see :meth:`last_layer_std`)."""

    @abstractmethod
    def zero_last_layer(self) -> None:
        """Make the key zero; a residual key starts like this."""

    def expand(self, x: Tensor) -> Tensor:
        """The tokens (B, N, C) scaled for each chart, (B, H, N, C)."""
        return self.scale[:, None] * x[:, None]

    def reset_charts(self, fan_in: int) -> None:
        """Start scale and conv1: unit-normal tokens give unit-normal pre-activations.

        Args:
            fan_in (int): Inputs of each of conv1's outputs.
        """
        nn.init.ones_(self.scale)
        draw(self.conv1.weight, std=fan_in**-0.5)
        nn.init.zeros_(self.conv1.bias)

    def init_weights(self) -> None:
        """Restore the matched start after an outer ``init_cfg`` touched our layers."""
        super().init_weights()
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

    def check_tokens(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is (B, N, C) with the C of this key."""
        if x.dim() != 3 or x.shape[-1] != self.embed_dims:
            raise ValueError(
                f'{type(self).__name__} expects tokens of shape (B, N, '
                f'{self.embed_dims}), got {tuple(x.shape)}'
            )


def draw(weight: Tensor, std: float) -> None:
    """Truncated normal weights; fake tensors hold no numbers to be drawn."""
    if not has_fake_tensors():
        nn.init.trunc_normal_(weight, std=std)


def grouped_conv(
    charts: int, in_dims: int, out_dims: int, bias: bool = True
) -> nn.Conv1d:
    """A convolution of kernel size 1 for each chart, chart-major: one group a chart."""
    return nn.Conv1d(charts * in_dims, charts * out_dims, 1, groups=charts, bias=bias)


def with_residual(
    cfg: dict | None | Sequence[dict | None], residual: bool
) -> dict | None | list[dict | None]:
    """A backbone's ``key``, one config or a list, with this ``residual`` in each."""
    if cfg is None:
        return None
    if isinstance(cfg, Mapping):
        return {**cfg, 'residual': residual}
    return [with_residual(each, residual) for each in cfg]


def build_key(
    cfg: dict, embed_dims: int, window_size: tuple[int, int] | None = None
) -> ManifoldKey:
    """Build a key for an attention layer from its config.

    Args:
        cfg (dict): ``dict(type='SpatialK', num_charts=8, ...)``. Besides the arguments
            of its class it takes ``residual`` (bool): the key is added to a linear key,
            and zero at the start. Defaults to False.
        embed_dims (int): Channels of the layer.
        window_size (tuple[int, int], optional): The layer's window. Given to
            strategies that need one and whose config does not name it.

    Returns:
        ManifoldKey: The key. Adding it is up to the layer, see its ``residual``.

    Raises:
        TypeError: If ``cfg`` is no dict with a ``type``, the type no key, or
            ``residual`` no bool.
        ValueError: If the type is unknown or an argument is wrong.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f"key must be None or a dict with 'type', got {cfg!r}")
    args = copy.deepcopy(dict(cfg))
    name = args.pop('type')
    cls = KEYS.get(name) if isinstance(name, str) else name
    if cls is None:
        known = ', '.join(sorted(KEYS.module_dict))
        raise ValueError(f'unknown key type {name!r}; registered keys are {known}')
    if not inspect.isclass(cls) or not issubclass(cls, ManifoldKey):
        raise TypeError(f'the type of a key must be a ManifoldKey, got {name!r}')
    residual = switch('residual', args.pop('residual', False))
    args.setdefault('embed_dims', embed_dims)
    if cls.needs_window and window_size is not None:
        args.setdefault('window_size', window_size)
    allowed = inspect.signature(cls).parameters
    if unknown := sorted(set(args) - set(allowed)):
        raise ValueError(
            f'{cls.__name__} has no argument {", ".join(unknown)}; '
            f'it takes {", ".join([*allowed, "residual"])}'
        )
    key = cls(**args)
    key.residual = residual
    if residual:
        key.zero_last_layer()
    return key
