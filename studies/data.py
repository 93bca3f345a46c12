"""The study's images: Fashion-MNIST and scikit-learn's handwritten digits.

Xiao et al., *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms*, https://arxiv.org/abs/1708.07747: 60,000 images for training and 10,000 for
testing, 28 x 28 pixels of grey, ten kinds of garments. The digits come with
scikit-learn: 1,797 images of 8 x 8 pixels.
"""

import os
from pathlib import Path

import numpy as np
from mmpretrain.datasets import BaseDataset, FashionMNIST
from mmpretrain.datasets.mnist import read_sn3_pascalvincent_tensor as read_idx
from mmpretrain.registry import DATASETS
from sklearn.datasets import load_digits

#: Where Debian's package dataset-fashion-mnist puts it.
DEBIAN = Path('/usr/share/datasets/fashion-mnist')
#: Where mmpretrain's data set downloads it to, as in its own configs.
DOWNLOADED = Path('data/fashionmnist')
VALIDATION = 5000  # training images that choose the recipe
SPLIT_SEED = 2402  # of the order in which training images are taken


def find_fashion_mnist() -> Path:
    """The folder with the four files of Fashion-MNIST, packed or not.

    Returns:
        Path: The one that ``FASHION_MNIST`` names, else the first that is there.

    Raises:
        FileNotFoundError: If there is none.
    """
    named = os.environ.get('FASHION_MNIST')
    folders = [Path(named)] if named else [DOWNLOADED, DEBIAN]
    for folder in folders:
        if all(find_file(folder, split, part) for split, part in FILES):
            return folder
    searched = ' and '.join(str(folder) for folder in folders)
    raise FileNotFoundError(
        f'Fashion-MNIST is not in {searched}: install the package '
        'dataset-fashion-mnist of Debian or Ubuntu, or let mmpretrain download it: '
        'python -c "from mmpretrain.datasets import FashionMNIST; '
        f"FashionMNIST(data_root='{DOWNLOADED}')\"; another folder can be named by "
        'the environment variable FASHION_MNIST'
    )


FILES = {
    ('train', 'images'): 'train-images-idx3-ubyte',
    ('train', 'labels'): 'train-labels-idx1-ubyte',
    ('test', 'images'): 't10k-images-idx3-ubyte',
    ('test', 'labels'): 't10k-labels-idx1-ubyte',
}


def find_file(folder: Path, split: str, part: str) -> Path | None:
    """One of the four files, packed or not; None if it is not there."""
    name = FILES[split, part]
    return next(
        (path for path in (folder / name, folder / f'{name}.gz') if path.is_file()),
        None,
    )


def read_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (M, 28, 28), uint8, and labels (M), int64, of 'train' or 'test'."""
    folder = find_fashion_mnist()
    images, labels = (
        read_idx(str(find_file(folder, split, part))).numpy()
        for part in ('images', 'labels')
    )
    return images, labels.astype(np.int64)


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """All indices in an order whose beginnings hold every class equally often."""
    rng = np.random.default_rng(SPLIT_SEED)
    classes = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    # the k-th image of every class before the next of any; shuffled among themselves
    rank = np.concatenate([np.arange(len(members)) for members in classes])
    members = np.concatenate(classes)
    return members[np.lexsort((rng.random(len(members)), rank))]


@DATASETS.register_module()
class StudyFashionMNIST(FashionMNIST):
    """Fashion-MNIST as images of three equal channels, whole or in part.

    Args:
        part (str): 'train', the 60,000 training images; 'search' and 'validation', a
            division of these that chooses the recipe; 'test', the 10,000 test images.
        num_images (int, optional): The first so many of a fixed order in which all
            classes are equally frequent. Defaults to None, all.
        repeat_to (int, optional): An epoch draws so many images, each equally often to
            one. Defaults to None, as many as there are.
        pipeline (list[dict]): Transforms of images (28, 28, 3), uint8.

    Raises:
        ValueError: If the part is unknown or has fewer images.
        FileNotFoundError: If the data set is not there.
    """

    PARTS = ('train', 'search', 'validation', 'test')

    def __init__(
        self,
        part: str,
        num_images: int | None = None,
        repeat_to: int | None = None,
        pipeline: list[dict] = (),
    ) -> None:
        check_part(part, self.PARTS)
        self.part, self.num_images, self.repeat_to = part, num_images, repeat_to
        super().__init__(
            data_root=str(find_fashion_mnist()),
            split='test' if part == 'test' else 'train',
            test_mode=part in ('validation', 'test'),
            download=False,
            pipeline=pipeline,
        )

    def load_data_list(self) -> list[dict]:
        """What :class:`FashionMNIST` gives, of the part."""
        images, labels = read_split(self.split)
        order = np.arange(len(labels))
        if self.part != 'test':
            order = balanced_order(labels)
        if self.part == 'validation':
            order = order[-VALIDATION:]
        elif self.part == 'search':
            order = order[:-VALIDATION]
        if self.num_images is not None:
            if not 1 <= self.num_images <= len(order):
                raise ValueError(
                    f'{self.part} has {len(order)} images, not {self.num_images}'
                )
            order = order[: self.num_images]
        return listed(images, labels, order, self.repeat_to)

    def get_data_info(self, idx: int) -> dict:
        """One image, its grey in three channels, and its label."""
        return in_three_channels(super().get_data_info(idx))


@DATASETS.register_module()
class StudyDigits(BaseDataset):
    """scikit-learn's digits as images of three equal channels.

    Args:
        part (str): 'train' or 'test'; a fifth of the images is for testing, in the
            same shares of the classes.
        repeat_to (int, optional): As for :class:`StudyFashionMNIST`.
        pipeline (list[dict]): Transforms of images (8, 8, 3), uint8.

    Raises:
        ValueError: If the part is unknown.
    """

    METAINFO = dict(classes=tuple('0123456789'))
    PARTS = ('train', 'test')

    def __init__(
        self, part: str, repeat_to: int | None = None, pipeline: list[dict] = ()
    ) -> None:
        check_part(part, self.PARTS)
        self.part, self.repeat_to = part, repeat_to
        super().__init__(ann_file='', pipeline=pipeline, test_mode=part == 'test')

    def load_data_list(self) -> list[dict]:
        """The digits of the part."""
        digits = load_digits()
        order = balanced_order(digits.target)
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        fifth = len(order) // 5
        order = order[:fifth] if self.part == 'test' else order[fifth:]
        return listed(images, digits.target, order, self.repeat_to)

    def get_data_info(self, idx: int) -> dict:
        """One image, its grey in three channels, and its label."""
        return in_three_channels(super().get_data_info(idx))


def check_part(part: str, parts: tuple[str, ...]) -> None:
    """Raise ValueError unless ``part`` is one of them."""
    if part not in parts:
        raise ValueError(f'part must be one of {", ".join(parts)}: {part!r}')


def listed(
    images: np.ndarray, labels: np.ndarray, order: np.ndarray, repeat_to: int | None
) -> list[dict]:
    """What mmpretrain wants to know of images, in their order."""
    if repeat_to is not None:
        order = np.resize(order, repeat_to)
    return [dict(img=images[i], gt_label=int(labels[i]), number=int(i)) for i in order]


def in_three_channels(info: dict) -> dict:
    """The same, with a grey image (H, W) as (H, W, 3)."""
    return {**info, 'img': np.repeat(info['img'][..., None], 3, axis=2)}
