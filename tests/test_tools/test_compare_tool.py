"""tools/analysis/compare.py: seeds in groups, tables and curves."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from loading import load_tool
from PIL import Image

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
