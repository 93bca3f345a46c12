"""Arrays as text inside a page, and what is left out for the page to stay small."""

import base64
import gzip
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

#: Bytes of a whole page: what mail and chat programs still carry as an attachment.
LIMIT = 8_000_000
#: Numbers of one array; more are not even computed, since no page could hold them.
LARGEST = 16_000_000

LEVELS = 255  # of 8-bit numbers
PEAK_LEVELS = 65_535


def packed(array: np.ndarray) -> dict:
    """An array of unsigned integers as gzip in base64, which browsers can read.

    Args:
        array (np.ndarray): uint8 or uint16.
    """
    text = base64.b64encode(gzip.compress(array.tobytes(), 9, mtime=0)).decode()
    return dict(bits=8 * array.itemsize, shape=list(array.shape), data=text)


def packed_rows(rows: Tensor) -> dict:
    """Rows of numbers from zero up, each in 255 steps of its largest.

    Args:
        rows (Tensor): (..., N). A number comes back to within 1/510 of its row's
            largest, in units of ``top``: 1, or the largest of all where that is more.
    """
    top = max(1.0, rows.max().item())
    shares = rows.double().numpy() / top
    peaks = np.ceil(shares.max(axis=-1) * PEAK_LEVELS)
    steps = np.maximum(peaks, 1) / PEAK_LEVELS
    values = shares / steps[..., None] * LEVELS
    return dict(
        top=top,
        values=packed(np.rint(values).astype(np.uint8)),
        peaks=packed(peaks.astype(np.uint16)),
    )


def packed_range(values: Tensor) -> dict:
    """Numbers in 255 steps from the least to the largest of all, and these two."""
    low, high = values.min().item(), values.max().item()
    steps = (values - low) / max(high - low, 1e-12) * LEVELS
    return dict(
        values=packed(steps.round().byte().numpy()),
        low=round(low, 6),
        high=round(high, 6),
    )


class Variant(NamedTuple):
    """One way of storing a part of the page.

    Args:
        content (dict, optional): What goes into the page, or None for nothing.
        lacks (str): What is left out, empty for nothing.
    """

    content: dict | None
    lacks: str

    def size(self) -> int:
        """Bytes in the page."""
        return len(json.dumps(self.content)) if self.content else 0


def choose(parts: Sequence[Sequence[Variant]], room: int) -> list[Variant]:
    """One variant of each part, as rich as the room allows.

    While it is too much, the part that saves most by its next variant takes it.

    Args:
        parts (Sequence[Sequence[Variant]]): The variants of each part, the richest
            first, the last of them small enough for any page.
        room (int): Bytes for all.
    """
    sizes = [[variant.size() for variant in part] for part in parts]
    at = [0] * len(parts)
    while sum(size[i] for size, i in zip(sizes, at)) > room:
        saved = [
            size[i] - size[i + 1] if i + 1 < len(size) else -1
            for size, i in zip(sizes, at)
        ]
        most = max(range(len(parts)), key=saved.__getitem__)
        if saved[most] < 0:
            break
        at[most] += 1
    return [part[i] for part, i in zip(parts, at)]
