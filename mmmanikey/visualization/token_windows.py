"""The tokens of an attention layer in the windows within which they attend.

Global attention is one window. The windows are gathered here from the layer's input,
by the place of every token, so that what is computed in them goes back to the grid.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..keys.windows import cut_windows, window_masks

#: Place of a token that is padding.
PADDING = -1


class TokenWindows(NamedTuple):
    """Windows of a layer's input.

    Args:
        tokens (Tensor): (B, num_windows, N, C); the padding is zero.
        places (Tensor): Number of each token in the layer's input, extra tokens first,
            or :data:`PADDING`, (num_windows, N), int64.
        num_extra (int): Tokens before the grid: a class token, registers.
        hw_shape (tuple[int, int]): Height and width of the grid.
        window (tuple[int, int]): Height and width of a window.
        masks (Tensor, optional): What is added to the logits of each window,
            (num_windows, N, N).
        has_class_token (bool): Whether the first of the extra tokens is one.
    """

    tokens: Tensor
    places: Tensor
    num_extra: int
    hw_shape: tuple[int, int]
    window: tuple[int, int]
    masks: Tensor | None = None
    has_class_token: bool = False

    def join(self, values: Tensor) -> Tensor:
        """Put values of the windows' tokens in the order of the layer's input.

        Args:
            values (Tensor): (B, num_windows, K, N).

        Returns:
            Tensor: (B, K, num_extra + h * w).
        """
        height, width = self.hw_shape
        flat = values.transpose(1, 2).flatten(2)  # (B, K, num_windows * N)
        # the padding goes to one more token at the end
        tokens = flat.new_zeros(*flat.shape[:2], self.num_extra + height * width + 1)
        tokens[..., self.places.flatten()] = flat
        return tokens[..., :-1]

    def stitch(self, values: Tensor) -> Tensor:
        """Put values of the windows' tokens on the grid.

        Args:
            values (Tensor): (B, num_windows, K, N).

        Returns:
            Tensor: (B, K, h, w).
        """
        return self.join(values)[..., self.num_extra :].unflatten(-1, self.hw_shape)


def token_windows(layer: nn.Module, x: Tensor, hw_shape: tuple) -> TokenWindows:
    """Gather the windows of a layer from its input.

    Args:
        layer (nn.Module): An attention layer of ours.
        x (Tensor): Its input, (B, N, C).
        hw_shape (tuple[int, int]): Height and width of the grid.
    """
    hw_shape = tuple(hw_shape)
    num_tokens = hw_shape[0] * hw_shape[1]
    num_extra = x.shape[1] - num_tokens
    window, shift = layer.window_on(hw_shape)
    masks = window_masks(*hw_shape, window[0], shift, like=x) if shift else None
    if window == hw_shape and not shift:  # global attention, or a single window
        places = torch.arange(x.shape[1], device=x.device)[None]
    else:
        numbers = torch.arange(1, num_tokens + 1, device=x.device)
        numbers = cut_windows(numbers.view(1, *hw_shape, 1), window, shift)
        places = numbers[..., 0] - 1  # the padding is 0 before
    padded = torch.cat([x, x.new_zeros(len(x), 1, x.shape[2])], dim=1)
    return TokenWindows(padded[:, places], places, num_extra, hw_shape, window, masks)
