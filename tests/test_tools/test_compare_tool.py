"""tools/analysis/compare.py: seeds in groups, tables and curves."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from loading import load_tool
from PIL import Image

from mmmanikey.visualization.comparison import Run, draw_comparison

TOOL = Path(__file__).resolve().parents[2] / 'tools/analysis/compare.py'


@pytest.fixture
def compare(run_tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, top in (('a_seed0', 0.5), ('a_seed1', 0.7), ('b', 0.6)):
        path = tmp_path / name / '20260101_000000/vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        rows = [
            dict(loss=1 / i, time=0.5, memory=100 * i, epoch=1 + i // 5, step=i)
            for i in range(1, 9)
        ]
        rows += [{'coco/bbox_mAP': top * i / 2, 'step': i} for i in (1, 2)]
        path.write_text('\n'.join(map(json.dumps, rows)))
    (tmp_path / 'empty').mkdir()

    return lambda *args: run_tool(load_tool(TOOL), *args)


def test_table_and_curves(compare, tmp_path):
    status, out, err = compare('--group', 'a=a_seed*', 'b', '--out', 'new/table')
    assert status == 0, err
    folder = tmp_path / 'new/table'
    table = (folder / 'compare.md').read_text()
    assert table in out
    head, _, b, a = table.splitlines()
    assert head == (
        '| group | runs | last coco/bbox_mAP | best coco/bbox_mAP | epochs '
        '| iterations | s/iteration | memory (MB) |'
    )
    assert a == ('| a | 2 | 0.6 (0.5..0.7) | 0.6 (0.5..0.7) | 2 | 8 | 0.5 | 800 |')
    assert b == '| b | 1 | 0.6 | 0.6 | 2 | 8 | 0.5 | 800 |'
    with (folder / 'compare.csv').open() as file:
        rows = {row['group']: row for row in csv.DictReader(file)}
    assert float(rows['a']['last coco/bbox_mAP max']) == 0.7
    assert float(rows['a']['last coco/bbox_mAP mean']) == pytest.approx(0.6)
    assert np.asarray(Image.open(folder / 'compare.png').convert('L')).std() > 10


def test_epochs_and_iterations_share_an_axis():
    """Beside a training that counts iterations, epochs are told in iterations."""
    by_epoch = [dict(loss=1, step=5 * e, epoch=e) for e in (1, 2)]
    by_epoch += [dict(mIoU=0.1 * e, step=e) for e in (1, 2)]
    by_iter = [dict(loss=1, step=i) for i in (4, 8)]
    by_iter += [dict(mIoU=0.2, step=i) for i in (4, 8)]
    runs = dict(epochs=[Run('a', by_epoch)], iterations=[Run('b', by_iter)])
    (axes,) = (
        ax for ax in draw_comparison(runs, ['mIoU']).axes if ax.get_title() == 'mIoU'
    )
    assert axes.get_xlabel() == 'iteration'
    assert [list(line.get_xdata()) for line in axes.lines] == [[5, 10], [4, 8]]
    (axes,) = (
        ax
        for ax in draw_comparison({'a': runs['epochs']}, ['mIoU']).axes
        if ax.get_title() == 'mIoU'
    )
    assert axes.get_xlabel() == 'epoch'
    assert list(axes.lines[0].get_xdata()) == [1, 2]


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        ([], 'name work dirs, or groups of them'),
        (['none'], "work dir 'none' does not exist"),
        (['empty'], "'empty' holds no */vis_data/scalars.json"),
        (['--group', 'x'], "--group takes NAME=GLOB, got 'x'"),
        (['--group', 'x=y*'], "--group 'x' matches no folder: 'y*'"),
        (['--group', 'x=b', '--group', 'x=b'], "--group 'x' is named twice"),
    ],
)
def test_mistakes(compare, args, sentence):
    status, _, err = compare('--out', 'table', *args)
    assert status == 2
    assert err.startswith(f'error: {sentence}')
    assert err.count('\n') == 1
