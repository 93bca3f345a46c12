r"""A linear key written exactly as pairs of charts: VanillaK and KUA.

This is not from the paper, which trains from scratch. What makes an exact start
possible is that GELU, like SiLU, ReLU and others, satisfies act(a) - act(-a) = c a with
a constant c (1 for these three). A pair of charts with the scales +1 and -1, the same
first layer R and opposite second layers +M and -M therefore represents a linear map:

.. code-block:: text

    M act(R x) - M act(-R x) = c M R x

The bias of the stock key is left out: it adds the same vector to all keys, which
softmax ignores.
"""

import copy
import math

import torch
from torch import Tensor, nn

from ..keys import KUA, VanillaK


def odd_slope(act: nn.Module) -> float:
    """The constant c of act(a) - act(-a) = c a.

    Raises:
        ValueError: If there is none.
    """
    points = torch.linspace(-6, 6, 97, dtype=torch.float64)
    act = copy.deepcopy(act).double().cpu().eval()
    with torch.no_grad():
        odd = act(points) - act(-points)
    slope = float((odd @ points) / (points @ points))
    if slope < 1e-3 or not torch.allclose(odd, slope * points, rtol=0, atol=1e-9):
        raise ValueError(
            f'a pair of charts is linear only for activations with '
            f'act(a) - act(-a) = c a, such as GELU, SiLU and ReLU; got {act}'
        )
    return slope


def rotations(rows: int, dims: int) -> Tensor:
    """Random rotations, one below the other and cut to ``rows``, float64.

    The rows have length one, so unit-normal tokens give unit-normal pre-activations,
    and as soon as ``rows >= dims`` they span the space evenly.

    Returns:
        Tensor: (rows, dims).
    """
    draws = torch.randn(math.ceil(rows / dims), dims, dims, dtype=torch.float64)
    return torch.linalg.qr(draws).Q.flatten(0, 1)[:rows]


def left_inverse(basis: Tensor) -> Tensor:
    """B with B ``basis`` = 1, for bases (..., rows, dims) of full column rank."""
    return torch.linalg.solve(basis.mT @ basis, basis.mT)


@torch.no_grad()
def write_linear_map(key: VanillaK | KUA, weight: Tensor) -> None:
    """Set the parameters of ``key`` so that it is the linear map k = W x.

    Charts 2p and 2p + 1 are pair p of P = H // 2, with the same R_p, scales +1 and -1,
    and second layers +M_p and -M_p. The R_p differ, so charts are no copies of each
    other.

    - Hidden width d >= C: every R_p is a rotation of its own (d rows of rotations), and
      every pair has an equal share of the map, M_p = H / (c P) W R_p⁺.
    - d < C <= P d: the pairs share the rows of rotations, and
      [M_1 .. M_P] = H / c W R⁺ for R = [R_1; ..; R_P].

    With an odd H the last chart keeps its first layer, and its second is zero.

    KUA's memberships weigh the charts by token. With d >= C and an even H they are
    drawn at random as at its usual start, equal within a pair: then
    Σ_p q_p c M_p R_p x = Σ_p 2 q_p W x = W x whatever the q_p. Else they are uniform,
    their layer zero, which hides conv2's bias until the layer has moved.

    Args:
        key (VanillaK | KUA): The key; its activation must pass :func:`odd_slope`.
        weight (Tensor): W, (C, C), such as the key's rows of a stock ``qkv``.

    Raises:
        ValueError: If there is no pair, the pairs are too narrow, or the activation
            has another form.
    """
    slope = odd_slope(key.act)
    charts, hidden, dims = key.num_charts, key.hidden_dims, key.embed_dims
    pairs = charts // 2
    if pairs * hidden < dims:
        raise ValueError(
            f'{charts} charts of {hidden} hidden channels cannot represent a linear '
            f'key of {dims} channels exactly: it takes {dims} channels in pairs of '
            f'charts, got {pairs * hidden}; raise num_charts or hidden_ratio'
        )
    weight = weight.double().cpu() * charts / slope
    each_pair_is_whole = hidden >= dims
    if each_pair_is_whole:
        first = torch.stack([rotations(hidden, dims) for _ in range(pairs)])
        second = weight / pairs @ left_inverse(first)  # (P, C, d)
    else:
        basis = rotations(pairs * hidden, dims)
        first = basis.unflatten(0, (pairs, hidden))
        second = (weight @ left_inverse(basis)).unflatten(1, (pairs, hidden))
        second = second.transpose(0, 1)

    key.reset_parameters()
    key.scale[1 : 2 * pairs : 2] = -1
    conv1 = key.conv1.weight.view(charts, hidden, dims)
    conv1[: 2 * pairs] = first.repeat_interleave(2, dim=0).to(conv1)
    conv2 = key.conv2.weight.view(charts, dims, hidden)
    conv2[: 2 * pairs] = torch.stack([second, -second], 1).flatten(0, 1).to(conv2)
    conv2[2 * pairs :] = 0
    if isinstance(key, KUA):
        if each_pair_is_whole and charts % 2 == 0:
            key.membership.weight[1::2] = key.membership.weight[::2]
        else:
            key.membership.weight.zero_()
