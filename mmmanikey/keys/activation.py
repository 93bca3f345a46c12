"""The activation of the charts, and how far it spreads unit-normal numbers."""

import torch
from torch import nn

from ..forms.rule import real_tensors

#: Those of torch.nn that make one value of each single value, and always the same one:
#: charts lay out their channels and tokens in several ways, and forms cut them into
#: pieces.
ACTIVATIONS = (
    *('CELU', 'ELU', 'GELU', 'Hardshrink', 'Hardsigmoid', 'Hardswish', 'Hardtanh'),
    *('LeakyReLU', 'LogSigmoid', 'Mish', 'PReLU', 'ReLU', 'ReLU6', 'SELU', 'SiLU'),
    *('Sigmoid', 'Softplus', 'Softshrink', 'Softsign', 'Tanh', 'Tanhshrink'),
    'Threshold',
)


def build_activation(act_cfg: dict | None) -> nn.Module:
    """Build the activation that ``act_cfg['type']`` is or names; ``None`` is linear.

    Args:
        act_cfg (dict, optional): Its type and arguments.

    Raises:
        TypeError: If ``act_cfg`` is no dict.
        ValueError: If it names none of :data:`ACTIVATIONS`, or its arguments are wrong.
    """
    if act_cfg is None:
        return nn.Identity()
    if not isinstance(act_cfg, dict) or 'type' not in act_cfg:
        raise TypeError(f"act_cfg must be None or a dict with 'type', got {act_cfg!r}")
    args = dict(act_cfg)
    name = cls = args.pop('type')
    if isinstance(name, str):  # that of a class is what a Python-style config dumps
        cls = getattr(nn, name.removeprefix('torch.nn.'), None)
    if cls not in [getattr(nn, known) for known in ACTIVATIONS]:
        raise ValueError(
            f'act_cfg names no activation of torch.nn that acts on each value alone: '
            f'{name!r}; take one of {", ".join(ACTIVATIONS)}'
        )
    try:
        with real_tensors():  # some notice a wrong argument when they are used
            cls(**args)(torch.zeros(1, 1))
        return cls(**args)
    except Exception as error:
        raise ValueError(f'act_cfg {act_cfg!r} does not work: {error}') from error


def activation_std(act_cfg: dict | None, points: int = 4096) -> float:
    """Standard deviation of ``act(z)`` for a standard normal ``z``.

    Measured on the midpoints of ``points`` equally likely slices of the normal
    distribution, so the value is the same on every run; and by an activation of its
    own, as that of a network built on the meta device holds no numbers.

    Raises:
        ValueError: If it is zero.
    """
    with real_tensors(), torch.no_grad():
        slices = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        act = build_activation(act_cfg).double().eval()
        std = float(act(torch.special.ndtri(slices)).std())
    if std == 0:
        raise ValueError(f'act_cfg {act_cfg!r} does not work: it is constant')
    return std
