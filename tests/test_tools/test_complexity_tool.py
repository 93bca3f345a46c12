"""tools/analysis/complexity.py: parts that sum up, and the formulas of the keys."""

from pathlib import Path

import pytest
from loading import load_tool
from mmengine.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
SWIN = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[2, 4]),
    window_size=4,
    out_indices=(0, 1),
)
#: Tokens and channels of both blocks at 32 x 32 pixels.
BLOCKS = ((64, 8), (16, 16))
CHARTS, WINDOW = 3, 16


@pytest.fixture
def tool():
    return load_tool(ROOT / 'tools/analysis/complexity.py')


@pytest.mark.parametrize(
    ('strategy', 'per_token'),
    [
        ('VanillaK', lambda c: 2 * CHARTS * c * c),
        ('SimpleK', lambda c: CHARTS * c * c + c * c),
        ('KUA', lambda c: 2 * CHARTS * c * c + CHARTS * c),
        ('SpatialK', lambda c: CHARTS * WINDOW * c + c * c),
    ],
)
def test_macs_by_part_are_the_formulas(tool, strategy, per_token):
    backbone = {**SWIN, 'key': dict(type=strategy, num_charts=CHARTS)}
    counts = tool.measure(dict(backbone=backbone), (32, 32))
    macs = {part: count[1] for part, count in counts.items()}
    assert macs['key'] == sum(n * per_token(c) for n, c in BLOCKS)
    # query and value, the output, and two products of N tokens in each window
    attention = sum(n * (3 * c * c + 2 * WINDOW * c) for n, c in BLOCKS)
    assert macs['attention, without a manifold key'] == attention
    assert macs['MLP'] == sum(n * 8 * c * c for n, c in BLOCKS)
    assert macs['patch embedding'] == 64 * 3 * 4 * 4 * 8
    assert macs['rest of the backbone'] == 16 * 32 * 16  # patch merging
    grey = tool.measure(dict(backbone={**backbone, 'in_channels': 1}), (32, 32))
    assert grey['patch embedding'][1] == 64 * 4 * 4 * 8


def test_a_residual_key_is_counted_as_one(tool):
    residual = {**SWIN, 'key': dict(type='VanillaK', num_charts=CHARTS, residual=True)}
    for strategy in ('VanillaK', 'SpatialK'):
        key = tool.key_config(strategy, residual, None)
        assert key['residual']
        counts = tool.measure(dict(backbone={**SWIN, 'key': key}), (32, 32))
        parameters = sum(
            p.numel() for p in MODELS.build({**SWIN, 'key': key}).parameters()
        )
        assert sum(count[0] for count in counts.values()) == parameters
    assert tool.key_config('linear', residual, None) is None


def test_a_detector_with_neck_and_heads(tool, run_tool):
    config = str(ROOT / 'configs/demo/mask_rcnn_vit_nano_vanillak.py')
    args = (config, '--shape', '64', '64')
    status, out, err = run_tool(tool, *args)
    assert status == 0, err
    rows = {
        cells[0]: [tuple(map(float, cell.split(' / '))) for cell in cells[1:]]
        for line in out.splitlines()
        if ' / ' in line and line.startswith('| ')
        for cells in [line.strip('| ').replace('| -', '| 0 / 0').split(' | ')]
    }
    parts = [*tool.PARTS, 'total']
    assert list(rows) == parts
    for column in range(5):
        for kind in range(2):
            *each, total = (rows[part][column][kind] for part in parts)
            assert sum(each) == pytest.approx(total, abs=0.05)
    assert min(count[1] for count in rows['heads']) > 0.1
    assert min(count[0] for count in rows['neck']) > 0.1


def test_mistakes(tool, run_tool, tmp_path):
    path = tmp_path / 'stock.py'
    path.write_text("model = dict(backbone=dict(type='SwinTransformer'))\n")
    for args, sentence in (
        (['none.py'], "config 'none.py' does not exist"),
        ([str(path)], 'has no backbone of mmmanikey at model.backbone'),
        (['--charts', '-1'], 'cannot count Swin-T: num_charts must be a positive'),
    ):
        status, _, err = run_tool(tool, *args)
        assert status == 2
        assert sentence in err
        assert err.count('\n') == 1
