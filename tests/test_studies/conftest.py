"""A small Fashion-MNIST of noise, so that tests need no data set."""

import gzip

import numpy as np
import pytest

COUNTS = {'train': 6000, 't10k': 300}


def write_idx(path, array):
    """A file in the format of MNIST, packed."""
    header = np.array([0x0800 + array.ndim, *array.shape], '>i4').tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), 1))


@pytest.fixture(scope='session')
def fashion_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('fashion')
    rng = np.random.default_rng(0)
    for name, count in COUNTS.items():
        labels = rng.permutation(np.arange(count) % 10)
        images = rng.integers(0, 60, (count, 28, 28))
        images[np.arange(count), 2 * labels + 3, 4:24] = 255  # a bar tells the class
        write_idx(folder / f'{name}-images-idx3-ubyte.gz', images)
        write_idx(folder / f'{name}-labels-idx1-ubyte.gz', labels)
    return folder


@pytest.fixture
def fashion(fashion_folder, monkeypatch, tmp_path):
    """The small data set is found; the current folder is an empty one."""
    monkeypatch.setenv('FASHION_MNIST', str(fashion_folder))
    monkeypatch.chdir(tmp_path)
    return fashion_folder
