"""Where Fashion-MNIST is found, and its parts."""

from pathlib import Path

import numpy as np
import pytest

from studies import data


def numbers(part, **kwargs):
    """Which images a part has."""
    dataset = data.StudyFashionMNIST(part, **kwargs)
    return [dataset.get_data_info(i)['number'] for i in range(len(dataset))]


def test_nowhere_is_one_sentence_with_both_ways(monkeypatch, tmp_path):
    monkeypatch.delenv('FASHION_MNIST', raising=False)
    monkeypatch.setattr(data, 'DEBIAN', tmp_path / 'debian')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='dataset-fashion-mnist.*FashionMNIST'):
        data.find_fashion_mnist()


def test_a_folder_that_lacks_a_file_is_not_taken(fashion, monkeypatch, tmp_path):
    for path in list(fashion.iterdir())[1:]:
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setenv('FASHION_MNIST', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        data.find_fashion_mnist()


def test_the_folders_in_their_order(fashion, monkeypatch, tmp_path):
    monkeypatch.delenv('FASHION_MNIST')
    monkeypatch.setattr(data, 'DEBIAN', fashion)
    assert data.find_fashion_mnist() == fashion
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/fashionmnist').symlink_to(fashion)
    assert data.find_fashion_mnist() == Path('data/fashionmnist')


def test_search_and_validation_divide_train(fashion, monkeypatch):
    monkeypatch.setattr(data, 'VALIDATION', 1000)
    search, validation = numbers('search'), numbers('validation')
    assert len(validation) == 1000
    assert sorted(search + validation) == list(range(6000)) == sorted(numbers('train'))


def test_parts_hold_every_class_equally_often(fashion, monkeypatch):
    monkeypatch.setattr(data, 'VALIDATION', 1000)
    _, labels = data.read_split('train')
    for part, kwargs in (
        ('validation', {}),
        ('train', dict(num_images=50)),
        ('train', dict(num_images=1000)),
    ):
        counts = np.bincount(labels[numbers(part, **kwargs)])
        assert counts.min() == counts.max()


def test_smaller_parts_are_the_beginning_of_larger_ones(fashion):
    assert numbers('train', num_images=40) == numbers('train', num_images=200)[:40]


def test_repeated_images_come_equally_often(fashion):
    drawn = numbers('train', num_images=30, repeat_to=75)
    counts = np.unique(drawn, return_counts=True)[1]
    assert len(drawn) == 75
    assert set(counts) == {2, 3}


def test_images_are_those_of_the_file(fashion):
    images, labels = data.read_split('test')
    dataset = data.StudyFashionMNIST('test')
    info = dataset.get_data_info(7)
    assert info['img'].shape == (28, 28, 3)
    assert (info['img'] == images[7][..., None]).all()
    assert info['gt_label'] == labels[7]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(part='val'), "part must be one of.*'val'"),
        (dict(part='train', num_images=60000), '6000 images, not 60000'),
    ],
)
def test_bad_parts(fashion, kwargs, message):
    with pytest.raises(ValueError, match=message):
        data.StudyFashionMNIST(**kwargs)


def test_digits_are_divided_and_balanced():
    parts = [data.StudyDigits(part) for part in ('train', 'test')]
    numbers = [[p.get_data_info(i)['number'] for i in range(len(p))] for p in parts]
    assert sorted(numbers[0] + numbers[1]) == list(range(1797))
    assert len(numbers[1]) == 359
    labels = [p.get_data_info(i)['gt_label'] for p in parts[1:] for i in range(len(p))]
    assert np.ptp(np.bincount(labels)) <= 3
    assert parts[0].get_data_info(0)['img'].shape == (8, 8, 3)
    with pytest.raises(ValueError, match="part must be one of train, test: 'val'"):
        data.StudyDigits('val')
