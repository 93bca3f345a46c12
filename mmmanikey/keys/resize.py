"""Resizing SpatialK's token mixing to another window. (Ours.)"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grids import source_grid, unknown_grid


def interpolation_matrix(source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bicubic interpolation of a token grid as a matrix A, in float64.

    Args:
        source (tuple[int, int]): Height and width of the grid, N tokens.
        target (tuple[int, int]): The grid to interpolate to, M tokens.

    Returns:
        Tensor: (M, N).
    """
    num_tokens = source[0] * source[1]
    basis = torch.eye(num_tokens, dtype=torch.float64).view(num_tokens, 1, *source)
    grids = F.interpolate(basis, size=target, mode='bicubic', align_corners=False)
    return grids.flatten(1).t()


def resize_token_mixing(
    weight: Tensor,
    bias: Tensor,
    num_charts: int,
    window_size: tuple[int, int],
    source: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Resize ``conv1`` of :class:`SpatialK` from another window.

    With A the interpolation from the old grid to the new one, T' = A T A⁺ and b' = A b.
    When the window grows A⁺ A = 1, so that mixing commutes with interpolation:
    T' (A x) = A (T x).

    Args:
        weight (Tensor): (H * N, N, 1).
        bias (Tensor): (H * N).
        num_charts (int): Charts H of the key that loads.
        window_size (tuple[int, int]): Its window, M tokens.
        source (tuple[int, int], optional): The old window; ``None`` is a square one.
            Defaults to None.

    Returns:
        tuple[Tensor, Tensor]: Weight (H * M, M, 1) and bias (H * M), same dtypes.

    Raises:
        ValueError: If the number of charts differs, or the tokens make no square and
            the old window is not given.
    """
    num_tokens = weight.shape[1]
    charts = weight.shape[0] // num_tokens
    if charts != num_charts:
        raise ValueError(
            f'the checkpoint has {charts} charts and the key {num_charts}; charts '
            "cannot be resized, set num_charts to the checkpoint's"
        )
    found = source_grid(num_tokens, (0,), window_size, source)
    if found is None:
        why = unknown_grid(num_tokens, 'window_size', window_size)
        raise ValueError(f'the token mixing {why}')
    grow = interpolation_matrix(found[0], window_size).to(weight.device)
    mixing = weight.double().view(charts, num_tokens, num_tokens)
    mixing = grow @ mixing @ torch.linalg.pinv(grow)  # (H, M, M)
    shift = bias.double().view(charts, num_tokens) @ grow.t()  # (H, M)
    return (
        mixing.flatten(0, 1)[..., None].to(weight.dtype),
        shift.flatten().to(bias.dtype),
    )
