"""Units of FSDP; tests/test_runs/test_distributed.py shards and trains."""

import tiny
from torch import nn

from mmmanikey.engine.sharding import wrap_blocks


def test_blocks_are_units_and_nothing_inside_them():
    for model, count in ((tiny.swin(), 4), (tiny.vit(), 2)):
        units = [name for name, m in model.named_modules() if wrap_blocks(m, False)]
        assert len(units) == count
        assert not any(a != b and a.startswith(f'{b}.') for a in units for b in units)


def test_it_looks_inside_everything():
    assert wrap_blocks(nn.Linear(1, 1), recurse=True)
    assert not wrap_blocks(nn.Linear(1, 1), recurse=False)
