"""Tables of positions, and SpatialK's mixing of tokens, resized to another grid.

An exporter's sizes are symbols: then no step here looks at them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .forms.exporting import is_symbol


def resize_relative_position_bias_table(
    table: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Bicubic resizing of a relative position bias table to another window.

    As in Swin's own code (``load_pretrained`` in its ``utils.py``,
    https://github.com/microsoft/Swin-Transformer).

    Args:
        table (Tensor): ((2 Wh - 1) * (2 Ww - 1), num_heads), any floating dtype.
        source (tuple[int, int]): Its window (Wh, Ww).
        target (tuple[int, int]): The window to resize to.

    Returns:
        Tensor: The table of the target window, same dtype.
    """
    (rows, cols), size = ((2 * h - 1, 2 * w - 1) for h, w in (source, target))
    grid = table.t().reshape(1, -1, rows, cols).float()  # (1, num_heads, rows, cols)
    grid = F.interpolate(grid, size=size, mode='bicubic', align_corners=False)
    return grid.flatten(2)[0].t().to(table.dtype).contiguous()


def resize_relative_position(rel_pos: Tensor, length: int) -> Tensor:
    """Linear resizing of relative positions along one axis.

    As in ViTDet (``get_rel_pos`` in detectron2's ``backbone/utils.py``,
    https://github.com/facebookresearch/detectron2).

    Args:
        rel_pos (Tensor): (2 * size - 1, head_dims), any floating dtype.
        length (int): Rows wanted.

    Returns:
        Tensor: (length, head_dims), same dtype; ``rel_pos`` itself if it fits.
    """
    if not is_symbol(length) and len(rel_pos) == length:
        return rel_pos
    wide = rel_pos.to(torch.promote_types(rel_pos.dtype, torch.float32))
    resized = F.interpolate(wide.t()[None], size=length, mode='linear')
    return resized[0].t().to(rel_pos.dtype)


def resize_positions(
    positions: Tensor,
    source: tuple[int, int],
    target: tuple[int, int],
    mode: str,
    num_extra: int,
) -> Tensor:
    """As mmpretrain's ``resize_pos_embed``, also to a size that is a symbol.

    Args:
        positions (Tensor): (1, num_extra + h * w, C), any floating dtype.
        source (tuple[int, int]): Their grid (h, w).
        target (tuple[int, int]): The grid to resize to.
        mode (str): Of the interpolation, such as 'bicubic'.
        num_extra (int): Extra tokens at the front, which stay as they are.

    Returns:
        Tensor: Those of the target grid, same dtype; the same where it is the source.
    """
    if not any(map(is_symbol, target)) and tuple(source) == tuple(target):
        return positions
    extra, grid = positions[:, :num_extra], positions[:, num_extra:]
    grid = grid.unflatten(1, source).permute(0, 3, 1, 2).float()  # (1, C, h, w)
    grid = F.interpolate(grid, size=target, mode=mode, align_corners=False)
    return torch.cat([extra, grid.flatten(2).transpose(1, 2).to(extra)], dim=1)


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
    weight: Tensor, bias: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Resize ``conv1`` of :class:`.SpatialK` from N tokens of a window to M of another.

    With A the interpolation from the old grid to the new one, T' = A T A⁺ and b' = A b.
    When the window grows A⁺ A = 1, so that mixing commutes with interpolation:
    T' (A x) = A (T x). (Not from the paper.)

    Args:
        weight (Tensor): (H * N, N, 1).
        bias (Tensor): (H * N).
        source (tuple[int, int]): The old window.
        target (tuple[int, int]): The new one.

    Returns:
        tuple[Tensor, Tensor]: Weight (H * M, M, 1) and bias (H * M), same dtypes.
    """
    num_tokens = weight.shape[1]
    grow = interpolation_matrix(source, target).to(weight.device)
    mixing = weight.double().view(-1, num_tokens, num_tokens)
    mixing = grow @ mixing @ torch.linalg.pinv(grow)  # (H, M, M)
    shift = bias.double().view(-1, num_tokens) @ grow.t()  # (H, M)
    return (
        mixing.flatten(0, 1)[..., None].to(weight.dtype),
        shift.flatten().to(bias.dtype),
    )
