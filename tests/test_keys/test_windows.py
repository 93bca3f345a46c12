"""Windows of a grid whose size is a symbol."""

import pytest
import torch
from oracles import assert_same
from torch import nn

from mmmanikey.keys.windows import cut_windows, join_windows


class CutAndJoin(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        windows = cut_windows(x, (2, 3), self.shift)
        return windows, join_windows(windows, (2, 3), x.shape[1:3], self.shift)


@pytest.mark.skipif(
    not hasattr(getattr(torch.export, 'Dim', None), 'DYNAMIC'),
    reason='needs an exporter that takes any size',
)
@pytest.mark.parametrize('shift', [0, 1])
def test_exported_for_any_size(shift):
    module = CutAndJoin(shift)
    dims = dict.fromkeys((1, 2), torch.export.Dim.DYNAMIC)
    example = (torch.randn(2, 7, 8, 3),)
    exported = torch.export.export(module, example, dynamic_shapes=(dims,)).module()
    for size in ((7, 8), (4, 6), (3, 11)):
        x = torch.randn(2, *size, 3)
        for got, want in zip(exported(x), module(x), strict=True):
            assert_same(got, want, 0)
