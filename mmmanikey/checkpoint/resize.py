"""Resizing of position tables between windows."""

import torch.nn.functional as F
from torch import Tensor


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
    if len(rel_pos) == length:
        return rel_pos
    resized = F.interpolate(rel_pos.t()[None].float(), size=length, mode='linear')
    return resized[0].t().to(rel_pos.dtype)
