"""Cutting a token grid into windows, and putting it back."""

import torch.nn.functional as F
from torch import Tensor


def cut_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a grid into windows, padded with zeros at the right and bottom.

    Args:
        x (Tensor): (B, h, w, C).
        window (tuple[int, int]): Height and width of a window, N tokens.

    Returns:
        Tensor: (B * num_windows, N, C), the windows of an image row by row.
    """
    batch, height, width, channels = x.shape
    rows, cols = window
    x = F.pad(x, (0, 0, 0, -width % cols, 0, -height % rows))
    x = x.view(batch, x.shape[1] // rows, rows, x.shape[2] // cols, cols, channels)
    return x.transpose(2, 3).reshape(-1, rows * cols, channels)


def join_windows(
    windows: Tensor, window: tuple[int, int], hw_shape: tuple[int, int]
) -> Tensor:
    """Undo :func:`cut_windows` and crop the padding, (B, h, w, C)."""
    (rows, cols), (height, width) = window, hw_shape
    down, across = -(-height // rows), -(-width // cols)
    channels = windows.shape[-1]
    x = windows.view(-1, down, across, rows, cols, channels)
    x = x.transpose(2, 3).reshape(-1, down * rows, across * cols, channels)
    return x[:, :height, :width]
