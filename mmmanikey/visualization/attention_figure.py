"""Attention maps of several models on one image: models in rows, heads in columns."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .output import wrapped

COLOURS = 'inferno'
OPACITY = 0.6  # of the heat over the image
MAPS_IN_LINE = 7  # maps in a line: with more of them a page shows thumbnails


class ModelMaps(NamedTuple):
    """Attention of one model on an image.

    Args:
        title (str): Model, layer and query.
        maps (Tensor): One map for each head, (num_heads, h, w), or their mean alone.
        stride (int): Pixels on a side of a token.
        place (tuple[float, float], optional): Row and column of the query in pixels.
    """

    title: str
    maps: Tensor
    stride: int
    place: tuple[float, float] | None


@rc_context({'image.origin': 'upper'})
def draw_attention(
    image: np.ndarray, models: Sequence[ModelMaps], title: str
) -> Figure:
    """For each model the heat over the image, and under it the heat token by token.

    The columns are the mean over the heads, then every head; after
    ``MAPS_IN_LINE`` of them a new line begins. A map's colours go from zero to its own
    maximum, which stands above it.

    Args:
        image (np.ndarray): (H, W, 3), bytes.
        models (Sequence[ModelMaps]): From top to bottom.
        title (str): Title of the figure.
    """
    named = [named_maps(model.maps.float().cpu()) for model in models]
    columns = max(wrapped(len(maps), MAPS_IN_LINE)[1] for maps in named)
    lines = [wrapped(len(maps), columns)[0] for maps in named]
    height, width = image.shape[:2]
    aspect = min(max(height / width, 0.4), 2.5)
    size = 1.5
    heights = [(2 * size * aspect + 0.35) * count + 0.5 for count in lines]
    figure = Figure(
        figsize=(max(size * columns, 6), sum(heights) + 0.3), layout='constrained'
    )
    figure.suptitle(title, fontsize=11, parse_math=False)
    rows = figure.subfigures(len(models), 1, squeeze=False, height_ratios=heights)
    for row, model, maps, count in zip(rows[:, 0], models, named, lines):
        row.suptitle(model.title, fontsize=9, parse_math=False)
        axes = row.subplots(2 * count, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        pairs = zip(axes[::2].flat, axes[1::2].flat)
        for (over, alone), (name, grid) in zip(pairs, maps.items()):
            over.set_title(f'{name}\nmax {grid.max():.2g}', fontsize=7)
            draw_overlay(over, image, grid, model.stride)
            bottom, right = (side * model.stride for side in grid.shape)
            alone.imshow(
                grid,
                cmap=COLOURS,
                vmin=0,
                extent=(0, right, bottom, 0),
                interpolation='nearest',
            )
            alone.set(xlim=(0, width), ylim=(height, 0))
            if model.place is not None:
                y, x = model.place
                for ax in (over, alone):
                    ax.plot(x, y, 'x', color='cyan', markersize=6, markeredgewidth=1.5)
    return figure


def named_maps(maps: Tensor) -> dict[str, Tensor]:
    """The mean, then every head; a single map is their mean already."""
    named = {'mean of heads': maps.mean(dim=0)}
    if len(maps) > 1:
        named.update((f'head {i}', grid) for i, grid in enumerate(maps))
    return named


def draw_overlay(ax: Axes, image: np.ndarray, grid: Tensor, stride: int) -> None:
    """The map over the image, interpolated between the tokens."""
    height, width = image.shape[:2]
    heat = F.interpolate(grid[None, None], scale_factor=stride, mode='bilinear')
    extent = (0, width, height, 0)
    ax.imshow(image, extent=extent)
    ax.imshow(
        heat[0, 0, :height, :width], cmap=COLOURS, vmin=0, alpha=OPACITY, extent=extent
    )
