"""Draw light handwritten digits on smooth, darker, coloured clutter.

Pure functions of their arguments and a random generator; ``make_digits.py`` turns
their pictures into data sets. ``make_garments.py`` draws garments in the same way.
"""

from collections.abc import Callable

import cv2
import numpy as np

GLYPH_SIZES = (25, 59)  # longest side; rounding adds a pixel at most: 24 to 60
SINGLE_SIZES = (46, 59)
MAX_SHIFT = 2  # of a single digit from the centre, in pixels
EDGE = 2.5  # steepness of a stroke's rim: higher is crisper, and closes small loops
INK = 0.35  # of a source pixel: lower makes thicker strokes
MAX_OVERLAP = 0.1  # of a digit's box that another digit's box may cover
#: (source, longest side, angle) -> opacity and brightness, both of the result's shape
Draw = Callable[[np.ndarray, int, float], tuple[np.ndarray, np.ndarray | float]]


def clutter(size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth coloured noise: random grids of growing fineness, enlarged and summed.

    Args:
        size (int): Side of the image.
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: Image of shape (size, size, 3), float32 in 0..255.
    """
    image = np.zeros((size, size, 3), np.float32)
    image += rng.uniform(20, 80, 3).astype(np.float32)
    for pixels_per_cell, amplitude in ((48, 35), (20, 20), (8, 8)):
        cells = size // pixels_per_cell + 2
        grid = rng.uniform(-amplitude, amplitude, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255)


def glyph(
    source: np.ndarray, size: int, angle: float
) -> tuple[np.ndarray, np.ndarray | float]:
    """Enlarge and turn a source digit.

    Args:
        source (np.ndarray): Digit of shape (8, 8), values 0..16.
        size (int): Longest side of the result's ink in pixels.
        angle (float): Rotation in degrees.

    Returns:
        tuple[np.ndarray, float]: Opacity in 0..1, float32, with the ink where it is at
        least 0.5; and the ink's brightness, 1 everywhere.
    """
    zoom, pad = 12, 3
    canvas = np.pad(source.astype(np.float32) / 16, pad)
    canvas = cv2.resize(canvas, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    centre = (canvas.shape[1] / 2, canvas.shape[0] / 2)
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    canvas = cv2.warpAffine(canvas, turn, canvas.shape[::-1], flags=cv2.INTER_LINEAR)
    rows, columns = np.nonzero(canvas >= INK)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    scale = size / max(bottom - top + 1, right - left + 1)
    margin = int(np.ceil(2 / scale))
    canvas = np.pad(canvas, margin)
    canvas = canvas[top : bottom + 1 + 2 * margin, left : right + 1 + 2 * margin]
    shape = [max(1, round(side * scale)) for side in canvas.shape]
    canvas = cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.clip((canvas - INK) * EDGE + 0.5, 0, 1), 1.0


def contrasting_colour(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The one of six light colours that differs most from a patch's mean colour."""
    candidates = rng.uniform(150, 255, (6, 3)).astype(np.float32)
    distance = np.linalg.norm(candidates - background.reshape(-1, 3).mean(0), axis=1)
    return candidates[distance.argmax()]


def paint(
    image: np.ndarray,
    opacity: np.ndarray,
    top: int,
    left: int,
    rng: np.random.Generator,
    brightness: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Paint a glyph into ``image`` in place; return its mask over the whole image."""
    height, width = opacity.shape
    patch = image[top : top + height, left : left + width]
    colour = contrasting_colour(patch[opacity >= 0.5], rng)
    shade = cv2.resize(
        rng.uniform(-25, 25, (2, 2, 1)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )
    ink = np.clip(colour + shade[..., None], 0, 255)
    ink *= np.broadcast_to(np.float32(brightness), opacity.shape)[..., None]
    patch += opacity[..., None] * (ink - patch)
    mask = np.zeros(image.shape[:2], bool)
    mask[top : top + height, left : left + width] = opacity >= 0.5
    return mask


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a mask, the latter two exclusive."""
    rows, columns = np.nonzero(mask)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Share of the smaller of two masks' boxes that the other box covers."""
    top, left, bottom, right = (np.array(pair) for pair in zip(box(mask), box(other)))
    height, width = bottom.min() - top.max(), right.min() - left.max()
    area = ((bottom - top) * (right - left)).min()
    return max(height, 0) * max(width, 0) / area


def draw_scene(
    sources: list[np.ndarray],
    size: int,
    rng: np.random.Generator,
    draw: Draw = glyph,
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Draw digits on clutter, later ones in front; their boxes hardly overlap.

    A digit for which no place is found after fifty tries is left out.

    Args:
        sources (list[np.ndarray]): Source digits of shape (8, 8), back to front.
        size (int): Side of the image.
        rng (np.random.Generator): Source of randomness.
        draw (Draw): Makes a source large. Defaults to :func:`glyph`.

    Returns:
        tuple[np.ndarray, dict[int, np.ndarray]]: The image (size, size, 3) in uint8,
        and for each digit drawn, by its position in ``sources``, the mask of its
        visible pixels, (size, size) in bool.
    """
    image = clutter(size, rng)
    visible: dict[int, np.ndarray] = {}
    for number, source in enumerate(sources):
        for _ in range(50):
            longest = int(rng.integers(GLYPH_SIZES[0], GLYPH_SIZES[1] + 1))
            opacity, brightness = draw(source, longest, rng.uniform(-8, 8))
            height, width = opacity.shape
            if height > size or width > size:
                continue
            top = int(rng.integers(0, size - height + 1))
            left = int(rng.integers(0, size - width + 1))
            ink = np.zeros((size, size), bool)
            ink[top : top + height, left : left + width] = opacity >= 0.5
            if all(overlap(ink, other) <= MAX_OVERLAP for other in visible.values()):
                paint(image, opacity, top, left, rng, brightness)
                visible = {i: mask & ~ink for i, mask in visible.items()}
                visible[number] = ink
                break
    return np.round(image).astype(np.uint8), visible


def draw_single(
    source: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one digit on clutter, near the centre.

    Args:
        source (np.ndarray): Source digit of shape (8, 8).
        size (int): Side of the image.
        rng (np.random.Generator): Source of randomness.

    Returns:
        tuple[np.ndarray, np.ndarray]: Image (size, size, 3) in uint8, and the mask of
        the digit, (size, size) in bool.
    """
    image = clutter(size, rng)
    longest = int(rng.integers(SINGLE_SIZES[0], SINGLE_SIZES[1] + 1))
    opacity, _ = glyph(source, longest, rng.uniform(-8, 8))
    corner = []
    for side in opacity.shape:
        centred = (size - side) // 2
        shift = min(MAX_SHIFT, centred)
        corner.append(centred + int(rng.integers(-shift, shift + 1)))
    mask = paint(image, opacity, *corner, rng)
    return np.round(image).astype(np.uint8), mask
