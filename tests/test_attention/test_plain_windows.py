"""The windows that exporters get are those of everybody else."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.utils import ShiftWindowMSA
from oracles import TOLERANCE, assert_same, randomize

from mmmanikey.attention import ManifoldKeyShiftWindowMSA, ManifoldKeyWindowMSA


@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    window=st.integers(2, 4),
    shifted=st.booleans(),
)
def test_plain_windows_give_the_same(height, width, window, shifted):
    shift = window // 2 if shifted else 0
    stock = ShiftWindowMSA(
        8,
        2,
        window_size=window,
        shift_size=shift,
        pad_small_map=True,
        window_msa=ManifoldKeyWindowMSA,
        key=dict(type='SpatialK', num_charts=2),
    )
    layer = randomize(ManifoldKeyShiftWindowMSA(stock)).double()
    x = torch.randn(2, height * width, 8, dtype=torch.float64)
    plain = layer.attend_plainly(x, (height, width), shift)
    assert_same(plain, layer(x, (height, width)), TOLERANCE[x.dtype])
