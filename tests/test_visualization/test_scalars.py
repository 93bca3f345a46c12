"""Reading what trainings log, and summing it up."""

import json

import pytest

from mmmanikey.visualization.comparison import Run, in_words, metrics_of, summary
from mmmanikey.visualization.scalars import curve, read_scalars


def write(folder, started, rows, tail=''):
    path = folder / started / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows) + tail)


def training(steps, loss, length=2):
    return [
        dict(loss=loss, time=0.1 * step, epoch=-(-step // length), iter=step, step=step)
        for step in steps
    ]


def test_resumed(tmp_path):
    """Interrupted in the third epoch and resumed from the end of the second."""
    valid = [dict(mIoU=30.0, step=1), dict(mIoU=40.0, step=2)]
    write(tmp_path, '1', training(range(1, 6), 1.0) + valid, tail='{"loss": 0.')
    write(tmp_path, '2', [*training(range(5, 7), 2.0), dict(mIoU=35.0, step=3)])
    rows = read_scalars(tmp_path)
    assert curve(rows, 'loss') == ([*range(1, 7)], [1.0] * 4 + [2.0] * 2)
    assert curve(rows, 'mIoU') == ([1, 2, 3], [30.0, 40.0, 35.0])


def test_begun_again_forgets_the_longer_training_before(tmp_path):
    write(tmp_path, '1', [*training(range(1, 7), 1.0), dict(mIoU=50.0, step=3)])
    write(tmp_path, '2', [*training([1, 2], 2.0), dict(mIoU=10.0, step=1)])
    rows = read_scalars(tmp_path)
    assert curve(rows, 'loss') == ([1, 2], [2.0, 2.0])
    assert curve(rows, 'mIoU') == ([1], [10.0])


def test_iterations(tmp_path):
    """Validation counts iterations where training has no epochs."""
    rows = [dict(loss=1.0, step=step) for step in (10, 20, 30)]
    write(tmp_path, '1', [*rows, dict(mIoU=1.0, step=10), dict(mIoU=2.0, step=30)])
    write(tmp_path, '2', [dict(loss=3.0, step=20)])
    rows = read_scalars(tmp_path)
    assert curve(rows, 'mIoU') == ([10], [1.0])
    run = Run('x', rows)
    assert (run.epochs(), run.iterations()) == (None, 20)


def test_a_later_file_without_training_takes_nothing_back(tmp_path):
    """A test in the same folder; a row without a step is none of a training."""
    write(tmp_path, '1', [*training([1, 2], 1.0), dict(mIoU=10.0, step=1)])
    write(tmp_path, '2', [dict(mIoU=20.0, step=2), dict(mIoU=30.0)], tail='[1]')
    rows = read_scalars(tmp_path)
    assert curve(rows, 'loss') == ([1, 2], [1.0, 1.0])
    assert curve(rows, 'mIoU') == ([1, 2], [10.0, 20.0])


def test_nothing_logged(tmp_path):
    assert read_scalars(tmp_path) == []


def test_summary():
    seeds = [
        Run('a', [dict(mIoU=v, step=i) for i, v in enumerate(values)])
        for values in ([1.0, 5.0, 4.0], [2.0, 3.0])
    ]
    seeds[0].rows += training(range(1, 8), 1.0, length=4)
    seeds[1].rows += [dict(row, memory=7) for row in training([1, 2, 3, 4], 1.0, 4)]
    groups = {'x': seeds, 'y': [Run('b', training([1], 1.0))]}
    assert metrics_of(groups) == ['mIoU']
    row, other = summary(groups, ['mIoU'])
    assert row == {
        'group': 'x',
        'runs': 2,
        'last mIoU': [4.0, 3.0],
        'best mIoU': [5.0, 3.0],
        'epochs': [2, 1],
        'iterations': [7, 4],
        's/iteration': pytest.approx([0.4, 0.25]),
        'memory (MB)': [7],
    }
    assert other['best mIoU'] == []
    assert in_words([4.0, 3.0]) == '3.5 (3..4)'
    assert [in_words([2.0]), in_words([])] == ['2', '-']
    steps, _ = seeds[1].training_curve('loss', by_epoch=True)
    assert steps == [0.25, 0.5, 0.75, 1.0]
    steps, _ = seeds[1].training_curve('loss', by_epoch=False)
    assert steps == [1, 2, 3, 4]
