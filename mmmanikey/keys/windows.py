"""Cutting a token grid into windows, and putting it back.

Height and width may be symbols of an exporter: no step here looks at them, and
divisions are of positive numbers, since ONNX rounds towards zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forms.rule import is_symbol


def as_grid(x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Tokens (B, h * w, C) as a grid (B, h, w, C).

    Not by ``unflatten``: after it torch's older ONNX exporter takes the sizes of its
    example for those of all images.
    """
    return x.reshape(-1, *hw_shape, x.shape[2])


def windows_along(length: int, window: int) -> int:
    """Windows that cover so many tokens of an axis."""
    return (length + window - 1) // window


def cut_windows(x: Tensor, window: tuple[int, int], shift: int | Tensor = 0) -> Tensor:
    """Cut a grid into windows, padded with zeros at the right and bottom.

    Args:
        x (Tensor): (B, h, w, C).
        window (tuple[int, int]): Height and width of a window, N tokens.
        shift (int | Tensor): Roll the padded grid up and to the left before, as Swin
            does; a tensor in a trace of ``torch.jit``. Defaults to 0.

    Returns:
        Tensor: (B * num_windows, N, C), the windows of an image row by row.
    """
    _, height, width, channels = x.shape
    rows, cols = window
    down, across = windows_along(height, rows), windows_along(width, cols)
    x = F.pad(x, (0, 0, 0, across * cols - width, 0, down * rows - height))
    x = rolled(x, -shift).view(-1, down, rows, across, cols, channels)
    return swapped(x, down).view(-1, rows * cols, channels)


def join_windows(
    windows: Tensor,
    window: tuple[int, int],
    hw_shape: tuple[int, int],
    shift: int | Tensor = 0,
) -> Tensor:
    """Undo :func:`cut_windows` and crop the padding, (B, h, w, C)."""
    (rows, cols), (height, width) = window, hw_shape
    down, across = windows_along(height, rows), windows_along(width, cols)
    channels = windows.shape[-1]
    x = windows.view(-1, down, across, rows, cols, channels)
    x = swapped(x, down).view(-1, down * rows, across * cols, channels)
    x = rolled(x, shift)
    if not isinstance(height, torch.SymInt):
        return x[:, :height, :width]
    for dim, length in ((1, height), (2, width)):  # a slice asks whether it is all of x
        x = x.index_select(dim, torch.arange(length, device=x.device))
    return x


def rolled(x: Tensor, shift: int | Tensor) -> Tensor:
    """A grid (B, h, w, C) rolled down and to the right; a negative shift rolls back."""
    if not is_symbol(shift):
        return x.roll((shift, shift), (1, 2)) if shift else x
    for dim in (1, 2):  # ONNX has no roll, and torch's exporter wants a constant shift
        length = x.shape[dim]
        places = torch.arange(length, device=x.device)
        x = x.index_select(dim, (places + length - shift) % length)
    return x


def swapped(x: Tensor, down: int) -> Tensor:
    """Dimensions 2 and 3 swapped, contiguous; ``down`` is a symbol for an exporter."""
    x = x.transpose(2, 3)
    if isinstance(down, torch.SymInt):  # contiguous() asks whether there is one window
        return x.clone(memory_format=torch.contiguous_format)
    return x.contiguous()
