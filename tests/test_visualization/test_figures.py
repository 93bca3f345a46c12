"""Figures stay readable with any number of heads and charts."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch

from mmmanikey.visualization.attention_figure import ModelMaps, draw_attention
from mmmanikey.visualization.charts import ChartResponse, draw_charts

IMAGE = np.zeros((56, 84, 3), np.uint8)
PAGE = 14.5  # inches
LEAST = 0.9


def assert_readable(figure, titles):
    """Every map is there once, of some size, and the page is no wider than a screen."""
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= PAGE
    found = [ax for ax in figure.axes if ax.get_title().split('\n')[0] in titles]
    assert [ax.get_title().split('\n')[0] for ax in found] == titles
    boxes = [ax.get_window_extent() for ax in found]
    assert all(box.width >= LEAST * figure.dpi for box in boxes)
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize('heads', [3, 6, 12, 16, 24])
def test_heads(heads):
    models = [
        ModelMaps(f'model {i}\nall', torch.rand(count, 4, 6), 14, None)
        for i, count in enumerate((heads, 4))
    ]
    titles = [
        title
        for count in (heads, 4)
        for title in ('mean of heads', *(f'head {i}' for i in range(count)))
    ]
    assert_readable(draw_attention(IMAGE, models, 'image'), titles)


@pytest.mark.parametrize('charts', [1, 8, 16, 20])
def test_charts(charts):
    maps = torch.rand(charts, 4, 6)
    matrix = torch.rand(charts, charts)
    response = ChartResponse('KUA', maps, maps, matrix, torch.rand(charts, 8))
    titles = [f'{name} {i}' for name in ('norm', 'membership') for i in range(charts)]
    assert_readable(draw_charts(response, IMAGE, 'image'), titles)


def figures(dtype=torch.float32):
    """One of each kind, with names that look like formulas."""
    maps = torch.rand(2, 4, 6, dtype=dtype)
    response = ChartResponse('KUA', maps, maps, maps[0, :2, :2], maps[0, :2])
    return (
        draw_attention(IMAGE, [ModelMaps('a$_$b', maps, 14, (7, 7))], 'c$_$d.png'),
        draw_charts(response, IMAGE, 'c$_$d.png'),
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    for figure in figures(dtype):
        figure.draw_without_rendering()


def test_the_first_row_is_above_whatever_the_user_has_set():
    """The cross, and what the token at it sees, would be in two places."""
    with matplotlib.rc_context({'image.origin': 'lower'}):
        images = [image for f in figures() for ax in f.axes for image in ax.images]
    assert len(images) > 10
    assert {image.origin for image in images} == {'upper'}
