"""Gathered windows against padding, rolling and cutting."""

from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.utils import ShiftWindowMSA
from oracles import TOLERANCE, assert_same, gradients, plain, randomize

from mmmanikey import forms
from mmmanikey.attention import ManifoldKeyShiftWindowMSA


def call(form, layer, hw_shape, shift, x):
    return form(layer, x, hw_shape, shift)


@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    window=st.integers(2, 4),
    shifted=st.booleans(),
    residual=st.booleans(),
)
def test_every_form_is_the_plain_layer(height, width, window, shifted, residual):
    shift = window // 2 if shifted else 0
    stock = ShiftWindowMSA(
        8,
        2,
        window_size=window,
        shift_size=shift,
        pad_small_map=True,
    )
    key = dict(type='SpatialK', num_charts=2, residual=residual)
    layer = ManifoldKeyShiftWindowMSA.adopt(stock, key)
    randomize(layer).double()
    x = torch.randn(2, height * width, 8, dtype=torch.float64)
    hw_shape = (height, width)
    want, want_grads = gradients(plain(lambda t: layer(t, hw_shape)), x, layer)
    found = dict(forms.reasons(layer, x, hw_shape, shift))
    names = {form.name: why for form, why in found.items()}
    assert names == {'fused windows': 'the device is cpu', 'windows in pieces': None}
    for form in found:
        run = partial(call, form, layer, hw_shape, shift)
        got, got_grads = gradients(run, x, layer)
        assert_same(got, want, TOLERANCE[x.dtype])
        for name, grad in want_grads.items():
            assert_same(got_grads[name], grad, TOLERANCE[x.dtype])
