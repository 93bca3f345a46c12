"""Cutting a token grid into windows, masking them, and putting it back.

Height and width may be symbols of an exporter: no step here looks at them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forms.exporting import contiguous, cropped, rolled
from ..forms.rule import untraced

#: What Swin adds to a logit that must not count.
MASKED = -100.0


@untraced
def check_grid(x: Tensor, hw_shape: tuple[int, int] | None) -> None:
    """Raise ValueError unless the tokens (B, N, C) fill a given grid."""
    if hw_shape is None:
        raise ValueError('windows and relative positions need hw_shape, the grid')
    height, width = hw_shape
    if x.shape[1] != height * width:
        raise ValueError(
            f'{x.shape[1]} tokens do not fill a grid of {height} x {width}'
        )


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
    return contiguous(x.transpose(2, 3), down).view(-1, rows * cols, channels)


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
    x = contiguous(x.transpose(2, 3), down).view(
        -1, down * rows, across * cols, channels
    )
    return cropped(rolled(x, shift), height, width)


def window_masks(
    height: int, width: int, window: int, shift: int | Tensor, like: Tensor
) -> Tensor:
    """The mask of each window of a padded and rolled grid, in the order of cutting.

    Rolling brings tokens of the first rows behind those of the last ones, and columns
    likewise: only the last row and the last column of windows hold both.

    Args:
        height (int): Rows of tokens, or a symbol of an exporter.
        width (int): Columns of tokens, likewise.
        window (int): Side of a window.
        shift (int | Tensor): Less than ``window``.
        like (Tensor): A tensor of the device and dtype wanted.

    Returns:
        Tensor: (num_windows, N, N), 0 or :data:`MASKED`.
    """
    padded = (windows_along(length, window) * window for length in (height, width))
    rows, cols = (
        torch.arange(length, device=like.device) >= length - shift for length in padded
    )
    rows, cols = rows.long().view(-1, 1, window, 1), cols.long().view(1, -1, 1, window)
    region = (2 * rows + cols).flatten(2).flatten(0, 1)  # (num_windows, N)
    apart = region[:, :, None] != region[:, None]
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill_(apart, MASKED)
