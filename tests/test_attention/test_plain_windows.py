"""The windows that exporters get are those of everybody else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.utils import ShiftWindowMSA
from oracles import TOLERANCE, assert_same, gradients, randomize

from mmmanikey.attention import ManifoldKeyShiftWindowMSA, ManifoldKeyWindowMSA


# So little dropout takes the form of GPUs, and drops nothing.
@pytest.mark.parametrize('attn_drop', [0.0, 1e-30])
@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    window=st.integers(2, 4),
    shifted=st.booleans(),
    key_residual=st.booleans(),
)
def test_plain_windows_give_the_same(
    attn_drop, height, width, window, shifted, key_residual
):
    shift = window // 2 if shifted else 0
    stock = ShiftWindowMSA(
        8,
        2,
        window_size=window,
        shift_size=shift,
        pad_small_map=True,
        window_msa=ManifoldKeyWindowMSA,
        key=dict(type='SpatialK', num_charts=2),
        key_residual=key_residual,
        attn_drop=attn_drop,
    )
    layer = randomize(ManifoldKeyShiftWindowMSA(stock)).double()
    x = torch.randn(2, height * width, 8, dtype=torch.float64)
    hw_shape = (height, width)
    want, want_grads = gradients(
        lambda t: layer.attend_plainly(t, hw_shape, shift), x, layer
    )
    got, got_grads = gradients(lambda t: layer(t, hw_shape), x, layer)
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])
