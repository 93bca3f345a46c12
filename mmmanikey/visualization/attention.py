"""Attention maps of every head, of ViT and Swin, with any key.

The kind of picture in Figure 2 of Meng et al., https://arxiv.org/abs/2402.00534. The
backbones compute attention in fused kernels that keep no weights; here these are
computed again from the input of one layer, by the layer's own query, key and bias.
"""

import operator

import torch
from torch import Tensor, nn

from ..backbones.structure import slot_of
from .layers import record_layers
from .token_windows import TokenWindows

Query = str | tuple[int, int]


def layer_windows(
    backbone: nn.Module, images: Tensor, layer: int = -1
) -> tuple[nn.Module, TokenWindows]:
    """Run images and gather the windows of one attention layer.

    Args:
        backbone (nn.Module): Ours or a stock one, in eval mode.
        images (Tensor): Normalised images, (B, 3, H, W).
        layer (int): Number of the attention layer. Defaults to -1, the last.

    Returns:
        tuple: The layer, of a stock one a copy, and the windows of its input.

    Raises:
        ValueError: If there is no such layer.
    """
    (found,) = record_layers(backbone, images, [layer])
    return found.module, found.windows


def softmax_weights(layer: nn.Module, windows: TokenWindows) -> Tensor:
    """Softmax attention of a layer, (B, num_windows, num_heads, N, N).

    The last axis are the tokens attended to, and sums to one. Gradients flow.
    """
    slot = slot_of(layer)
    query, key, _ = slot.project(windows.tokens.flatten(0, 1), windows.window)
    logits = slot.logits(query, key, windows.window)
    logits = logits.unflatten(0, windows.tokens.shape[:2])
    if windows.masks is not None:
        logits += windows.masks[:, None]
    return logits.softmax(dim=-1)


def default_query(windows: TokenWindows) -> str:
    """The class token where there is one, else the mean over queries."""
    return 'cls' if windows.has_class_token else 'mean'


def attention_map(weights: Tensor, windows: TokenWindows, query: Query) -> Tensor:
    """What is attended to, on the grid.

    Args:
        weights (Tensor): From :func:`softmax_weights`.
        windows (TokenWindows): Their windows.
        query (str | tuple[int, int]): 'cls' for the attention of the class token;
            'center', or row and column of a token of the grid, for the attention of
            that token, which is zero outside its window; 'mean' for the attention that
            each token receives within its window, averaged over the window's queries
            (without class token, registers and padding).

    Returns:
        Tensor: (B, num_heads, h, w). Attention to a class token, to registers or to
        padding is not on the grid, so a map may sum to less than one.

    Raises:
        ValueError: If there is no such query.
    """
    on_grid = windows.places >= windows.num_extra  # (num_windows, N)
    if query == 'mean':
        share = on_grid / on_grid.sum(dim=1, keepdim=True)
        received = torch.einsum('bwnqk,wq->bwnk', weights, share.to(weights))
        return windows.stitch(received)
    if query == 'cls':
        if not windows.has_class_token:
            raise ValueError("query 'cls' needs a class token, and there is none")
        place = 0
    else:
        place = windows.num_extra + grid_place(query, windows.hw_shape)
    window, token = (windows.places == place).nonzero()[0].tolist()
    received = torch.zeros_like(weights[..., 0])  # (B, num_windows, num_heads, N)
    received[:, window] = weights[:, window, :, token]
    return windows.stitch(received)


def grid_place(query: Query, hw_shape: tuple[int, int]) -> int:
    """Number of a token on the grid, row by row."""
    height, width = hw_shape
    if query == 'center':
        query = (height // 2, width // 2)
    if isinstance(query, str):
        raise ValueError(f'query must be cls, center, mean or a token, got {query!r}')
    row, column = map(operator.index, query)
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f'query {query} is outside the grid of {height} x {width}')
    return row * width + column


@torch.no_grad()
def record_attention(
    backbone: nn.Module, images: Tensor, layer: int = -1, query: Query | None = None
) -> Tensor:
    """Attention maps of a batch of images, (B, num_heads, h, w).

    Args:
        backbone (nn.Module): Ours or a stock one, in eval mode.
        images (Tensor): Normalised images, (B, 3, H, W).
        layer (int): Number of the attention layer. Defaults to -1, the last.
        query (str | tuple[int, int], optional): See :func:`attention_map`. Defaults to
            the class token where there is one, else to 'mean'.

    Raises:
        ValueError: If there is no such layer or query.
    """
    module, windows = layer_windows(backbone, images, layer)
    query = default_query(windows) if query is None else query
    return attention_map(softmax_weights(module, windows), windows, query)
