"""Attention as rows of the tokens that a query sees, and the windows of each token."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..rollout import Step, carried_back, start_row
from ..token_windows import TokenWindows
from .packing import LARGEST, packed, packed_rows


class Seen(NamedTuple):
    """Who is in which window, on the grid.

    Args:
        order (Tensor): Places in each window that are on the grid, in the order of the
            grid, those that are not at the end, (num_windows, N).
        real (Tensor): Which of them are, (num_windows, N).
        places (Tensor): What stands there, counted on the grid, (num_windows, N).
    """

    order: Tensor
    real: Tensor
    places: Tensor


def seen_on_grid(windows: TokenWindows) -> Seen:
    """Sort the tokens of each window by their place on the grid."""
    places = windows.places - windows.num_extra
    outside = windows.hw_shape[0] * windows.hw_shape[1]
    places = torch.where(places < 0, outside, places)
    places, order = places.sort(dim=1)
    real = places < outside
    most = int(real.sum(dim=1).max())
    return Seen(order[:, :most], real[:, :most], places[:, :most])


def query_rows(weights: Tensor, windows: TokenWindows) -> Tensor:
    """Attention of each query to the tokens of its window.

    Args:
        weights (Tensor): (num_windows, maps, N, N).
        windows (TokenWindows): Theirs.

    Returns:
        Tensor: (maps, queries, M), the queries being the class token where there is one
        and the tokens of the grid; M as in :func:`seen_on_grid`.
    """
    seen = seen_on_grid(windows)
    maps = weights.shape[1]
    index = seen.order[:, None, None].expand(-1, maps, weights.shape[2], -1)
    rows = weights.gather(3, index) * seen.real[:, None, None]  # (W, maps, N, M)
    rows = rows.transpose(0, 1)  # (maps, W, N, M)
    window = torch.arange(len(seen.order))[:, None].expand_as(seen.order)[seen.real]
    found = rows.new_zeros(maps, len(window), rows.shape[3])
    found[:, seen.places[seen.real]] = rows[:, window, seen.order[seen.real]]
    if windows.has_class_token:
        found = torch.cat([rows[:, 0, :1], found], dim=1)
    return found


def window_numbers(windows: TokenWindows) -> tuple[np.ndarray, np.ndarray]:
    """For each token of the grid its window, and what of it the token sees.

    Returns:
        tuple: Two arrays (h, w), uint16. Tokens of a shifted window that are masked
        from each other have another number in the second.
    """
    seen = seen_on_grid(windows)
    count, length = windows.places.shape
    number = torch.arange(count)[:, None].expand(-1, length)
    sight = number
    if windows.masks is not None:  # the first token that each one sees tells them apart
        sight = number * length + (windows.masks == 0).int().argmax(dim=2)
    found = []
    for values in (number, sight):
        grid = torch.zeros(windows.hw_shape[0] * windows.hw_shape[1], dtype=torch.long)
        grid[seen.places[seen.real]] = values.gather(1, seen.order)[seen.real]
        grid = np.unique(grid.numpy(), return_inverse=True)[1]
        found.append(grid.reshape(windows.hw_shape).astype(np.uint16))
    return tuple(found)


def packed_windows(windows: TokenWindows, stride: int) -> dict:
    """What the page knows of a layer besides its attention."""
    number, sight = window_numbers(windows)
    return dict(
        grid=list(windows.hw_shape),
        stride=stride,
        window=list(windows.window),
        shifted=windows.masks is not None,
        classToken=windows.has_class_token,
        windows=packed(number),
        sights=packed(sight),
    )


def packed_attention(weights: Tensor, windows: TokenWindows) -> dict:
    """The rows of one layer; the page makes their mean where there are heads."""
    return packed_rows(query_rows(weights, windows))


def attention_sizes(windows: TokenWindows, heads: int) -> tuple[bool, bool]:
    """Whether a page could hold the attention of all heads, and of their mean."""
    count, length = windows.places.shape
    numbers = count * length * length
    return heads * numbers <= LARGEST, numbers <= LARGEST


def packed_rollout(
    steps: list[Step], strides: tuple[int, int], name: str = 'rollout', about: str = ''
) -> list[dict]:
    """Rollout as a layer of the page: of every token, and of all together.

    Args:
        steps (list[Step]): From :func:`..rollout.record_steps`.
        strides (tuple[int, int]): Pixels on a side of a token of the first and of the
            last grid.
        name (str): What to call it. Defaults to 'rollout'.
        about (str): What else to say of it. Defaults to nothing.
    """
    first, last = steps[0].windows, steps[-1].windows
    common = dict(
        name=name,
        about=about,
        grid=list(last.hw_shape),
        stride=strides[1],
        keyGrid=list(first.hw_shape),
        keyStride=strides[0],
        classToken=False,
    )
    whole = start_row(last, None)
    fine = first.hw_shape[0] * first.hw_shape[1]
    single = last.hw_shape[0] * last.hw_shape[1]
    found = []
    if single * fine <= LARGEST // 4:
        each = torch.eye(last.num_extra + single)[last.num_extra :]
        if last.has_class_token:
            each, common = torch.cat([whole, each]), {**common, 'classToken': True}
        rows = carried_back(each, steps).flatten(1)
        found.append({**common, 'attention': packed_rows(rows[None])})
    rows = carried_back(whole, steps).flatten(1)
    single = {**common, 'classToken': False, 'wholeImage': True}
    found.append({**single, 'attention': packed_rows(rows[None])})
    return found
