"""Write a detection data set of garments: Fashion-MNIST on coloured clutter.

COCO-format boxes and instance masks, 128 x 128 images with one to four garments, made
as ``make_digits.py`` makes those of digits. Garments of Fashion-MNIST's test images
stand in val only, those of its training images in train only.

    python tools/data/make_garments.py --source /usr/share/datasets/fashion-mnist

The same settings give the same bytes. The folder appears complete or not at all, and
a second run with the same settings does nothing.
"""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from make_digits import SPLITS, write_detection
from whole_folder import make_folder

VERSION = 1  # raise it when the pictures change: older folders are then made anew
STAMP = 'garments.json'
DARKEST = 0.35  # of a garment's colour, where its picture is black
FAINT = 0.1  # pixels below are fringes of the picture, not cloth
FILES = {'train': 'train', 'val': 't10k'}
CLASSES = (
    'T-shirt',
    'trousers',
    'pullover',
    'dress',
    'coat',
    'sandal',
    'shirt',
    'sneaker',
    'bag',
    'ankle boot',
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines the data; written beside it.

    Args:
        seed (int): Seed of every random choice.
        train_images (int): Images in train.
        val_images (int): Images in val.
        version (int): Version of this generator.

    Raises:
        ValueError: If the seed is negative or there would be no image.
    """

    seed: int = 0
    train_images: int = 2000
    val_images: int = 500
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.seed < 0 or min(self.train_images, self.val_images) < 1:
            raise ValueError(
                'the seed must not be negative, and there must be an image in train '
                f'and in val; got {self}'
            )


def garment(
    source: np.ndarray, size: int, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge and turn a garment.

    Args:
        source (np.ndarray): Its picture (28, 28), 0 where there is nothing.
        size (int): Longest side of the result in pixels.
        angle (float): Rotation in degrees.

    Returns:
        tuple[np.ndarray, np.ndarray]: Opacity in 0..1, float32, with the garment where
        it is at least 0.5; and brightness of the garment's colour, float32.
    """
    zoom, pad = 4, 6
    grey = np.pad(source.astype(np.float32) / 255, pad)
    cloth = cv2.morphologyEx(
        (grey > FAINT).astype(np.float32), cv2.MORPH_CLOSE, np.ones(3)
    )
    planes = np.dstack([cloth, grey])
    planes = cv2.resize(planes, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    centre = (planes.shape[1] / 2, planes.shape[0] / 2)
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    planes = cv2.warpAffine(planes, turn, planes.shape[1::-1], flags=cv2.INTER_LINEAR)
    rows, columns = np.nonzero(planes[..., 0] >= 0.5)
    planes = planes[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = size / max(planes.shape[:2])
    shape = [max(1, round(side * scale)) for side in planes.shape[1::-1]]
    planes = cv2.resize(planes, shape, interpolation=cv2.INTER_AREA)
    return planes[..., 0], DARKEST + (1 - DARKEST) * planes[..., 1]


def read_garments(source: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (M, 28, 28), uint8, and classes (M) of 'train' or 'val'.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    from mmpretrain.datasets.mnist import read_sn3_pascalvincent_tensor as read

    found = []
    for part in ('images-idx3', 'labels-idx1'):
        name = f'{FILES[split]}-{part}-ubyte'
        paths = [source / name, source / f'{name}.gz']
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f'{source} has neither {name} nor {name}.gz of Fashion-MNIST; name its '
                "folder by --source (Debian's package dataset-fashion-mnist has it)"
            )
        found.append(read(str(path)).numpy())
    return tuple(found)


def make_garments(source: Path, out: Path, settings: Settings) -> bool:
    """Make ``out`` from Fashion-MNIST unless it is current; False if it was."""

    def write(root: Path) -> Iterator[None]:
        for split in SPLITS:
            pictures, labels = read_garments(source, split)
            rng = np.random.default_rng([settings.seed, 0])
            garments = (pictures, labels, rng.permutation(len(labels)))
            count = getattr(settings, f'{split}_images')
            yield from write_detection(
                *(root, split, count, garments, settings.seed),
                *(CLASSES, garment, 'garment'),
            )

    total = settings.train_images + settings.val_images
    return make_folder(out, STAMP, settings, write, total)


def main() -> int:
    parser = argparse.ArgumentParser(description='Write the data set of garments.')
    parser.add_argument(
        '--source', type=Path, required=True, help='folder with Fashion-MNIST'
    )
    parser.add_argument('--out', type=Path, default=Path('data/garments'))
    for field in dataclasses.fields(Settings)[:-1]:
        flag = '--' + field.name.replace('_', '-')
        parser.add_argument(
            flag, type=int, default=field.default, help='default: %(default)s'
        )
    args = vars(parser.parse_args())
    source, out = args.pop('source'), args.pop('out')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so clean up
    try:
        made = make_garments(source, out, Settings(**args))
    except (OSError, ValueError) as error:
        print(f'make_garments: {error}', file=sys.stderr)
        return 1
    print(f'{out}: {"written" if made else "up to date, nothing to do"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
