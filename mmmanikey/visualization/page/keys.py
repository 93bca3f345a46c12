"""What a page shows of the keys: charts of a manifold key, and keys as colours."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...backbones.structure import slot_of
from ...keys import SpatialK
from ..charts import charts_of
from ..layers import Layer
from ..token_windows import TokenWindows
from .packing import packed, packed_range

#: Standard deviations from the middle of a colour to its end.
REACH = 2.0


def packed_charts(layer: Layer) -> dict | None:
    """Charts of a layer, or ``None`` where its key is the linear one alone."""
    key = slot_of(layer.module).key
    if key is None:
        return None
    response = charts_of(layer)
    content = dict(
        strategy=response.strategy,
        count=key.num_charts,
        norms=packed_range(response.norms),
    )
    if response.memberships is not None:
        content['memberships'] = packed_range(response.memberships)
    if isinstance(key, SpatialK):
        mixing = key.conv1.weight.detach().unflatten(0, (key.num_charts, -1))[..., 0]
        content['mixing'] = packed_range(mixing)  # (H, N, N)
        content['window'] = list(key.window_size)
        content['inside'] = packed(place_inside(layer.windows, key.window_size))
    return content


def place_inside(windows: TokenWindows, window: Sequence[int]) -> np.ndarray:
    """Number of each token of the grid in the key's window, (h, w), uint16."""
    high, wide = window
    count, length = windows.places.shape
    number = torch.arange(length - windows.num_extra)
    row, column = number // windows.window[1] % high, number % windows.window[1] % wide
    inside = (row * wide + column).expand(count, 1, -1).float()
    on_grid = windows._replace(places=windows.places[:, windows.num_extra :])
    return on_grid.stitch(inside[None])[0, 0].numpy().astype(np.uint16)


def key_map(layer: Layer) -> Tensor:
    """The key of all heads over the grid, less its mean, (C, h, w).

    A constant added to every key changes no attention.
    """
    windows = layer.windows
    slot = slot_of(layer.module)
    key = slot.project(windows.tokens[0], windows.window)[1]
    channels = key.transpose(2, 3).flatten(1, 2)  # (num_windows, C, N)
    grid = windows.stitch(channels[None])[0]
    return grid - grid.mean(dim=(1, 2), keepdim=True)


def packed_colours(layers: Sequence[Layer]) -> list[dict]:
    """Keys as colours: three principal components as red, green and blue.

    Args:
        layers (Sequence[Layer]): Of one or two models. Where the keys have as many
            channels the components are those of all keys together, each model's scaled
            to one mean square: its size is a temperature of the softmax.
    """
    maps = [key_map(layer) for layer in layers]
    maps = [each / each.square().mean().sqrt().clamp(min=1e-9) for each in maps]
    if len({len(each) for each in maps}) > 1:
        return [colours for layer in layers for colours in packed_colours([layer])]
    tokens = torch.cat([each.flatten(1) for each in maps], dim=1).double()  # (C, n)
    basis = torch.linalg.eigh(tokens @ tokens.t())[1][:, -3:].flip(1)  # (C, <= 3)
    spread = (basis.t() @ tokens).std(dim=1).clamp(min=1e-9)
    together = len(maps) > 1
    found = []
    for each in maps:
        shares = torch.einsum('ck,chw->hwk', basis / spread, each.double())
        shares = (shares / (2 * REACH) + 0.5).clamp(0, 1)
        found.append(
            dict(
                values=packed((shares * 255).round().byte().numpy()), together=together
            )
        )
    return found
