r"""A linear key fitted by charts with one shared last layer: SimpleK, SpatialK.

Not from the paper. All charts share ``out``, so they cannot cancel the non-linear parts
of each other as pairs of VanillaK's charts do. Here the charts are drawn such that
their mean is nearly linear, and ``out`` is solved for by least squares on the tokens of
unlabelled images.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..keys import SimpleK, SpatialK
from .exact import rotations

#: Biases of the charts, in deviations of the pre-activations, from the first chart to
#: the last. Well above zero GELU is bent only slightly; the constant part that a bias
#: adds to all keys is invisible to softmax. Further up the fit would be closer still,
#: and the charts next to linear.
CHART_BIASES = (1.5, 2.5)
#: Part of a chart's variance that is its own.
OWN_PART = 0.5
#: Added to the diagonal of the normal equations, relative to its mean.
RIDGE = 1e-9


class NormalEquations:
    """Least squares ``min_W |F W^T - K|^2``, accumulated batch by batch in float64.

    Features F and targets K are centred over the tokens of each attention group first:
    a constant on all keys of a group is invisible to softmax.

    Args:
        in_dims (int): Channels d of the features.
        out_dims (int): Channels C of the targets.
    """

    def __init__(self, in_dims: int, out_dims: int) -> None:
        self.gram = torch.zeros(in_dims, in_dims, dtype=torch.float64)
        self.cross = torch.zeros(in_dims, out_dims, dtype=torch.float64)
        self.energy = 0.0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add the groups (B, N, d) and (B, N, C)."""
        features, targets = (
            (part.double() - part.double().mean(dim=1, keepdim=True)).flatten(0, 1)
            for part in (features, targets)
        )
        self.gram += (features.t() @ features).cpu()
        self.cross += (features.t() @ targets).cpu()
        self.energy += float(targets.square().sum())

    def solve(self) -> Tensor:
        """The weight W, (C, d)."""
        ridge = RIDGE * self.gram.diagonal().mean().clamp(min=1e-300)
        eye = torch.eye(len(self.gram), dtype=torch.float64)
        return torch.linalg.solve(self.gram + ridge * eye, self.cross).t()

    def relative_error(self, weight: Tensor) -> float:
        """``|F W^T - K| / |K|`` of these tokens for the weight W, (C, d)."""
        weight = weight.double().cpu()
        square = (
            (weight @ self.gram * weight).sum()
            - 2 * (weight.t() * self.cross).sum()
            + self.energy
        )
        return math.sqrt(max(float(square), 0.0) / max(self.energy, 1e-300))


@torch.no_grad()
def randomize_charts(key: SimpleK | SpatialK, tokens: Tensor) -> None:
    """Draw charts whose mean is nearly a linear map, and set ``out`` to zero.

    .. code-block:: text

        SimpleK    conv1_h = sqrt(1/2) R + sqrt(1/2) E_h,   R rows of rotations
        SpatialK   T_h     = sqrt(1/2) 1 + sqrt(1/2) E_h

    The E_h are random and sum to zero over the charts, so the mean of the charts is R x
    (or x, unmixed) to first order. The scale is one over the root mean square of each
    channel, so pre-activations have about unit variance; the bias is
    :data:`CHART_BIASES`.

    Args:
        key (SimpleK | SpatialK): The key.
        tokens (Tensor): Some of its inputs, (..., C).
    """
    charts = key.num_charts
    size = tokens.flatten(0, -2).double().square().mean(dim=0).sqrt()
    size = size.clamp(min=0.1 * float(size.mean()) or 1.0)  # silent channels
    key.scale.copy_((1 / size).expand_as(key.scale))

    if isinstance(key, SimpleK):
        common = rotations(key.hidden_dims, key.embed_dims)
    else:
        common = torch.eye(key.num_tokens, dtype=torch.float64)
    rows, cols = common.shape
    own = torch.randn(charts, rows, cols, dtype=torch.float64) / math.sqrt(cols)
    own = (own - own.mean(dim=0)) * math.sqrt(charts / max(charts - 1, 1))
    first = math.sqrt(1 - OWN_PART) * common + math.sqrt(OWN_PART) * own
    key.conv1.weight.copy_(first.flatten(0, 1)[..., None])
    biases = torch.linspace(*CHART_BIASES, charts)
    key.conv1.bias.copy_(biases.repeat_interleave(rows))
    nn.init.zeros_(key.out.weight)


@torch.no_grad()
def run_watched(
    model: nn.Module,
    keys: Mapping[str, nn.Module],
    batches: Iterable[Tensor],
    see: Callable[[str, tuple], object],
) -> None:
    """Run batches through a model, and hand on what its keys are called with.

    Args:
        model (nn.Module): The model.
        keys (Mapping[str, nn.Module]): Its keys by name.
        batches (Iterable[Tensor]): Images.
        see (Callable[[str, tuple], object]): Gets the name and the arguments of a key.
    """
    hooks = [
        key.register_forward_pre_hook(lambda _, args, name=name: see(name, args))
        for name, key in keys.items()
    ]
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
