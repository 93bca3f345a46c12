"""What each chart of a key responds to, drawn in one figure.

Charts are recorded before their fusion, in the literal form of Meng et al.,
https://arxiv.org/abs/2402.00534: expand, group-wise convolution. The measures are ours.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..backbones.structure import slot_of
from .layers import Layer, record_layers
from .output import wrapped

CHARTS_IN_LINE = 8  # charts in a line


class ChartResponse(NamedTuple):
    """What the H charts of one layer make of an image.

    Args:
        strategy (str): Class of the key.
        norms (Tensor): Euclidean norm of each chart at each token, (H, h, w).
        memberships (Tensor, optional): KUA's weights of the charts, (H, h, w).
        similarity (Tensor): Cosine between the charts, (H, H), each as one vector over
            all tokens and features, less its mean over the tokens: what is constant
            over tokens is invisible to softmax.
        scale (Tensor): The charts' trainable scales, (H, C).
    """

    strategy: str
    norms: Tensor
    memberships: Tensor | None
    similarity: Tensor
    scale: Tensor


@torch.no_grad()
def record_charts(backbone: nn.Module, image: Tensor, layer: int = -1) -> ChartResponse:
    """Run one image and record the charts of one attention layer.

    Args:
        backbone (nn.Module): Ours, in eval mode.
        image (Tensor): Normalised image, (1, 3, H, W).
        layer (int): Number of the attention layer. Defaults to -1, the last.

    Raises:
        ValueError: If there is no such layer, or its key has no charts.
    """
    (found,) = record_layers(backbone, image, [layer])
    if slot_of(found.module).key is None:
        raise ValueError(f'the key of layer {layer} is the linear one, without charts')
    return charts_of(found)


@torch.no_grad()
def charts_of(layer: Layer) -> ChartResponse:
    """The charts of a layer that has a manifold key, of the first image it saw."""
    key, windows = slot_of(layer.module).key, layer.windows
    # extra tokens stand before the only window of global attention
    extra = windows.num_extra
    tokens = windows.tokens[0, :, extra:]  # (num_windows, N, C)
    windows = windows._replace(places=windows.places[:, extra:])
    charts = key.charts(tokens, windows.window)  # (num_windows, H, N, d)
    norms = windows.stitch(charts.norm(dim=-1)[None])[0]
    memberships = key.memberships(tokens)  # (num_windows, N, H)
    if memberships is not None:
        memberships = windows.stitch(memberships.transpose(1, 2)[None])[0]
    real = (windows.places >= extra).flatten()
    vectors = charts.transpose(0, 1).flatten(1, 2)[:, real]  # (H, tokens, features)
    vectors = (vectors - vectors.mean(dim=1, keepdim=True)).flatten(1)
    vectors = F.normalize(vectors, dim=1)
    return ChartResponse(
        type(key).__name__,
        norms,
        memberships,
        vectors @ vectors.t(),
        key.scale.detach(),
    )


@rc_context({'image.origin': 'upper'})
def draw_charts(response: ChartResponse, image: np.ndarray, title: str) -> Figure:
    """Image, norm of every chart, memberships, similarity of the charts, and scales.

    Args:
        response (ChartResponse): From :func:`record_charts`.
        image (np.ndarray): The image, (H, W, 3), bytes.
        title (str): Title of the figure.
    """
    charts = len(response.norms)
    maps = {'norm': response.norms}
    if response.memberships is not None:
        maps['membership'] = response.memberships
    lines, columns = wrapped(charts, CHARTS_IN_LINE)
    height = 1.9 * lines * len(maps)
    figure = Figure(
        figsize=(max(9, 1.5 * (columns + 1.5)), height + 3.6), layout='constrained'
    )
    figure.suptitle(title, parse_math=False)
    top, bottom = figure.subfigures(2, height_ratios=(height, 3.4))
    axes = top.subplots(len(maps) * lines, columns + 1, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for block, (name, values) in zip(np.split(axes, len(maps)), maps.items()):
        limits = values.min().item(), values.max().item()
        block[0, 0].imshow(image)
        block[0, 0].set_title('image', fontsize=9)
        for number, (ax, grid) in enumerate(zip(block[:, 1:].flat, values)):
            shown = ax.imshow(grid.float().cpu(), vmin=limits[0], vmax=limits[1])
            ax.set_title(f'{name} {number}', fontsize=9)
        top.colorbar(shown, ax=block[:, 1:], fraction=0.02, pad=0.01)
    similarity, scale = bottom.subplots(1, 2, width_ratios=(1, 2))
    draw_matrix(similarity, response.similarity, 'cosine between charts', 0)
    similarity.set(xlabel='chart', ylabel='chart')
    draw_matrix(scale, response.scale, 'scale of each chart, 1 at the start', 1)
    scale.set(xlabel='channel', ylabel='chart')
    return figure


def draw_matrix(ax: Axes, matrix: Tensor, title: str, middle: float) -> None:
    """A matrix in colours that are white at ``middle``, with its colour bar."""
    reach = max((matrix - middle).abs().max().item(), 0.01)
    shown = ax.imshow(
        matrix.float().cpu(),
        cmap='RdBu_r',
        vmin=middle - reach,
        vmax=middle + reach,
        aspect='auto',
        interpolation='nearest',
    )
    ax.set_title(title, fontsize=9)
    ax.set_yticks(range(len(matrix)))
    ax.figure.colorbar(shown, ax=ax)
