"""Write the demo's data: handwritten digits on coloured clutter.

scikit-learn ships 1797 handwritten digits of 8x8 pixels, so the demo needs no
download. From them this tool draws three sets that share one look and one split:

- ``detection/``: COCO-format boxes and instance masks, 128x128 images with one to
  four digits. Masks are exact: a digit that another one covers loses those pixels.
- ``classification/``: single digits, in one folder per class.
- ``semantic/``: sheets of two by two such pictures, some of them without a digit, and
  label maps: 0 for background, 1 to 10 for the pixels of a digit.

A source digit belongs to train or to val once and for all, in all sets, so nothing
that pretraining has seen appears in the val images of the others.

    python tools/data/make_digits.py --out data/digits --seed 0

The same settings give the same bytes. The folder appears complete or not at all, and
a second run with the same settings does nothing.
"""

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from digit_scenes import Draw, clutter, draw_scene, draw_single, glyph
from whole_folder import make_folder

VERSION = 3  # raise it when the pictures change: older folders are then made anew
STAMP = 'digits.json'
CLASSES = tuple('0123456789')
SPLITS = ('train', 'val')
Digits = tuple[np.ndarray, np.ndarray, np.ndarray]  # images, labels, indices to use
IMAGE_SIZE = 128
CROP_SIZE = 64
EMPTY = 0.25  # share of a sheet's cells without a digit


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines the data; written beside it.

    Args:
        seed (int): Seed of every random choice.
        train_images (int): Detection images in train, and sheets.
        val_images (int): Detection images in val, and sheets.
        train_crops (int): Classification images in train.
        val_crops (int): Classification images in val.
        version (int): Version of this generator.
    """

    seed: int = 0
    train_images: int = 800
    val_images: int = 200
    train_crops: int = 6000
    val_crops: int = 720
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')
        for name in ('train_images', 'val_images', 'train_crops', 'val_crops'):
            if getattr(self, name) < 1:
                raise ValueError(
                    f'{name} must be at least 1, got {getattr(self, name)}'
                )


def split_sources(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Divide the source digits by class: a fifth of each goes to val.

    Args:
        labels (np.ndarray): Class of each source digit, shape (M,).
        seed (int): Seed of the division.

    Returns:
        dict[str, np.ndarray]: Indices into ``labels`` for 'train' and 'val', shuffled.
    """
    rng = np.random.default_rng([seed, 0])
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        num_val = len(members) // 5
        parts['val'].append(members[:num_val])
        parts['train'].append(members[num_val:])
    return {split: rng.permutation(np.concatenate(parts[split])) for split in SPLITS}


def encode_mask(mask: np.ndarray) -> dict:
    """A mask as COCO's uncompressed run-length encoding (column by column)."""
    flat = mask.flatten(order='F')
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    if flat[0]:
        counts.insert(0, 0)  # runs start with background
    return {'size': list(mask.shape), 'counts': counts}


def annotate(mask: np.ndarray, label: int, image_id: int, number: int) -> dict:
    """A COCO annotation; box and area are those of the visible pixels."""
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    return {
        'id': number,
        'image_id': image_id,
        'category_id': label + 1,
        'bbox': [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        'area': int(mask.sum()),
        'segmentation': encode_mask(mask),
        'iscrowd': 0,
    }


def _endless(indices: np.ndarray) -> Iterator[int]:
    """Every source digit once before any of them again."""
    while True:
        yield from indices.tolist()


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # OpenCV wants colours as BGR; a label map has no colours
    if not cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image):
        raise OSError(f'cannot write {path}')


def write_detection(
    root: Path,
    split: str,
    num_images: int,
    digits: Digits,
    seed: int,
    classes: Sequence[str] = CLASSES,
    draw: Draw = glyph,
    kind: str = 'digit',
) -> Iterator[None]:
    """Write one split of the detection set; yields after every image."""
    images, labels, indices = digits
    sources = _endless(indices)
    coco: dict = {
        'info': {'description': f'{kind}s on clutter', 'version': VERSION},
        'images': [],
        'annotations': [],
        'categories': [
            {'id': i + 1, 'name': name, 'supercategory': kind}
            for i, name in enumerate(classes)
        ],
    }
    for image_id in range(1, num_images + 1):
        rng = np.random.default_rng([seed, 1, SPLITS.index(split), image_id])
        chosen = [next(sources) for _ in range(int(rng.integers(1, 5)))]
        image, masks = draw_scene([images[i] for i in chosen], IMAGE_SIZE, rng, draw)
        name = f'{image_id:06d}.png'
        _write_image(root / split / name, image)
        size = {'width': IMAGE_SIZE, 'height': IMAGE_SIZE}
        coco['images'].append({'id': image_id, 'file_name': name, **size})
        for position, mask in masks.items():
            label = int(labels[chosen[position]])
            number = len(coco['annotations']) + 1
            coco['annotations'].append(annotate(mask, label, image_id, number))
        yield
    (root / 'annotations').mkdir(exist_ok=True)
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(coco) + '\n')


def write_classification(
    root: Path,
    split: str,
    num_images: int,
    digits: Digits,
    seed: int,
) -> Iterator[None]:
    """Write one split of the classification set, as ``write_detection`` does."""
    images, labels, indices = digits
    for label in CLASSES:
        (root / split / label).mkdir(parents=True)
    sources = _endless(indices)
    for number in range(1, num_images + 1):
        rng = np.random.default_rng([seed, 2, SPLITS.index(split), number])
        index = next(sources)
        image, _ = draw_single(images[index], CROP_SIZE, rng)
        _write_image(root / split / CLASSES[labels[index]] / f'{number:06d}.png', image)
        yield


def write_semantic(
    root: Path,
    split: str,
    num_images: int,
    digits: Digits,
    seed: int,
) -> Iterator[None]:
    """Write one split of the sheets, as ``write_detection`` does."""
    images, labels, indices = digits
    sources = _endless(indices)
    for number in range(1, num_images + 1):
        rng = np.random.default_rng([seed, 3, SPLITS.index(split), number])
        sheet = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        labelled = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for corner in np.ndindex(IMAGE_SIZE // CROP_SIZE, IMAGE_SIZE // CROP_SIZE):
            cell = tuple(slice(i * CROP_SIZE, (i + 1) * CROP_SIZE) for i in corner)
            if rng.random() < EMPTY:
                sheet[cell] = np.round(clutter(CROP_SIZE, rng))
                continue
            index = next(sources)
            sheet[cell], mask = draw_single(images[index], CROP_SIZE, rng)
            labelled[cell][mask] = labels[index] + 1
        _write_image(root / 'images' / split / f'{number:06d}.png', sheet)
        _write_image(root / 'labels' / split / f'{number:06d}.png', labelled)
        yield


def write_all(root: Path, settings: Settings) -> Iterator[None]:
    """Write the sets into an empty folder; yields after every image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    indices = split_sources(bunch.target, settings.seed)
    for split in SPLITS:
        digits = (bunch.images, bunch.target, indices[split])
        for write, folder, unit in (
            (write_detection, 'detection', 'images'),
            (write_classification, 'classification', 'crops'),
            (write_semantic, 'semantic', 'images'),
        ):
            count = getattr(settings, f'{split}_{unit}')
            yield from write(root / folder, split, count, digits, settings.seed)


def make(out: Path, settings: Settings) -> bool:
    """Make ``out`` unless it is current; see :func:`whole_folder.make_folder`."""
    total = settings.train_crops + settings.val_crops
    total += 2 * (settings.train_images + settings.val_images)
    return make_folder(
        out, STAMP, settings, partial(write_all, settings=settings), total
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the demo data.')
    parser.add_argument('--out', type=Path, default=Path('data/digits'))
    for field in dataclasses.fields(Settings)[:-1]:
        flag = '--' + field.name.replace('_', '-')
        parser.add_argument(
            flag, type=int, default=field.default, help='default: %(default)s'
        )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    out = args.pop('out')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so clean up
    try:
        made = make(out, Settings(**args))
    except (OSError, ValueError, ImportError) as error:
        print(f'make_digits: {error}', file=sys.stderr)
        return 1
    print(f'{out}: {"written" if made else "up to date, nothing to do"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
