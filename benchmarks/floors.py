"""The least time for what a key adds: its bare products and its activations.

They run at the sizes of a network's stages, some windows or tokens at a time, so that
results stay in the cache. With PyTorch's operators a key needs no less than this; what
it takes beyond is its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mmmanikey.forms.linear import linear
from mmmanikey.forms.pieces import pieces, token_pieces

CHARTS = 8
gelu_gradient = torch.ops.aten.gelu_backward
#: How often a step runs the product before the activation, and the one behind it: once
#: forward, twice for gradients; the first is computed again, as no chart is kept.
FIRST, SECOND = 4, 3


def floor(
    key: str, arch: dict, window: int, images: Tensor
) -> dict[str, Callable[[], None]]:
    """What to call for the floor of a key in Swin, with 8 charts.

    The linear key's product, which the key replaces, is not part of it, nor is one of
    its size that a key has in its place.

    Args:
        key (str): Strategy.
        arch (dict): ``embed_dims`` and ``depths`` of the network.
        window (int): Side of a window.
        images (Tensor): (B, 3, H, W), of the dtype and device to run in.

    Returns:
        dict[str, Callable]: 'forward', and 'step' with the backward pass.
    """
    batch, _, height, width = images.shape
    blocks = []
    for stage, depth in enumerate(arch['depths']):
        side = 4 * 2**stage * window
        windows = batch * -(-height // side) * -(-width // side)
        dims = arch['embed_dims'] * 2**stage
        x = images.new_empty(windows, window**2, dims).normal_()
        blocks += [
            over_tokens(x) if key == 'SpatialK' else over_channels(key, x)
        ] * depth

    def run(learns: bool) -> Callable[[], None]:
        @torch.no_grad()
        def call() -> None:
            for block in blocks:
                block(learns)

        return call

    return dict(forward=run(False), step=run(True))


def over_tokens(x: Tensor) -> Callable[[bool], None]:
    """SpatialK in one block, for windows (W, N, C)."""
    windows, tokens, dims = x.shape
    weight = unit_weight(x, CHARTS * tokens, tokens)
    bytes_each = CHARTS * tokens * dims * x.element_size()
    cuts = pieces(0, windows, bytes_each, x.device)
    # windows side by side, so that one product mixes all of a piece
    pieces_of_x = [x[cut].transpose(0, 1).flatten(1).t() for cut in cuts]

    def block(learns: bool) -> None:
        for of_windows in pieces_of_x:
            for _ in range(FIRST if learns else 1):
                mixed = linear(weight, of_windows)
            activate(mixed, learns)

    return block


def over_channels(key: str, x: Tensor) -> Callable[[bool], None]:
    """VanillaK, SimpleK or KUA in one block, for windows (W, N, C)."""
    x = x.flatten(0, 1)
    dims = x.shape[1]
    weight = unit_weight(x, dims, dims)
    cuts = token_pieces(x, dims)
    # SimpleK has one second product, in the place of the linear key's; the others have
    # one for each chart, of which one is in that place
    seconds = 0 if key == 'SimpleK' else CHARTS - 1

    def block(learns: bool) -> None:
        for chart in range(CHARTS):
            for cut in cuts:
                for _ in range(FIRST if learns else 1):
                    hidden = linear(x[cut], weight)
                activate(hidden, learns)
                for _ in range((SECOND if learns else 1) * (chart < seconds)):
                    linear(hidden, weight)

    return block


def unit_weight(x: Tensor, rows: int, columns: int) -> Tensor:
    """A weight that gives values of variance 1: very small ones would take longer."""
    return x.new_empty(rows, columns).normal_(std=columns**-0.5)


def activate(hidden: Tensor, learns: bool) -> None:
    """GELU, in place; in a step once more, and its derivative."""
    torch.ops.aten.gelu_(hidden)
    if learns:
        torch.ops.aten.gelu_(hidden)
        gelu_gradient.grad_input(hidden, hidden, grad_input=hidden)
