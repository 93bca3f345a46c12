"""Gathered windows against padding, rolling and cutting."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from attention_kernel import on_cpu  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.utils import ShiftWindowMSA
from oracles import TOLERANCE, assert_same, gradients, kept, plain, randomize

from mmmanikey import forms
from mmmanikey.attention import ManifoldKeyShiftWindowMSA
from mmmanikey.forms import fused_windows


def call(form, layer, hw_shape, shift, x):
    return form(layer, x, hw_shape, shift)


@pytest.mark.usefixtures('on_cpu')
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


class Transposed(torch.nn.Module):
    """A layer that gives its channels one after the other, as convolutions would."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args):
        return self.layer(*args).mT.contiguous().mT


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('height', [4, 6], ids=['whole windows', 'padded'])
@pytest.mark.parametrize('number', [0, 1], ids=['fused windows', 'windows in pieces'])
def test_other_layers_may_order_their_channels(number, height):
    stock = ShiftWindowMSA(8, 2, window_size=4, pad_small_map=True)
    layer = ManifoldKeyShiftWindowMSA.adopt(stock, dict(type='VanillaK', num_charts=2))
    layer.w_msa.qv = Transposed(layer.w_msa.qv)
    layer.w_msa.key = Transposed(layer.w_msa.key)
    layer.w_msa.key.residual = False
    randomize(layer).double()
    x, hw_shape = torch.randn(2, height * 4, 8, dtype=torch.float64), (height, 4)
    want, want_grads = gradients(plain(lambda t: layer(t, hw_shape)), x, layer)
    form = list(dict(forms.reasons(layer, x, hw_shape, 0)))[number]
    got, got_grads = gradients(partial(call, form, layer, hw_shape, 0), x, layer)
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


def test_a_table_may_have_more_entries_than_are_used():
    """Also where a shorter one had the same index before."""
    stock = ShiftWindowMSA(8, 2, window_size=2, pad_small_map=True)
    layer = randomize(ManifoldKeyShiftWindowMSA.adopt(stock)).double()
    x, msa = torch.randn(2, 16, 8, dtype=torch.float64), layer.w_msa
    layer(x, (4, 4)).sum().backward()
    longer = torch.cat([msa.relative_position_bias_table.detach()] * 2)
    msa.relative_position_bias_table = torch.nn.Parameter(longer)
    _, want = gradients(plain(lambda t: layer(t, (4, 4))), x, layer)
    _, got = gradients(lambda t: layer(t, (4, 4)), x, layer)
    for name, grad in want.items():
        assert_same(got[name], grad, TOLERANCE[x.dtype])


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', [None, 'SpatialK', 'VanillaK'])
@pytest.mark.parametrize('number', [0, 1], ids=['fused windows', 'windows in pieces'])
def test_tokens_in_windows_are_kept_and_no_others(number, key):
    """On padded grids the tokens are kept once, padded or in windows."""
    stock = ShiftWindowMSA(32, 2, window_size=4, shift_size=2, pad_small_map=True)
    layer = ManifoldKeyShiftWindowMSA.adopt(stock, key and dict(type=key))
    x, hw_shape = torch.randn(2, 6 * 7, 32).requires_grad_(), (6, 7)
    form = list(dict(forms.reasons(layer, x, hw_shape, 2)))[number]
    tensors = kept(partial(call, form, layer, hw_shape, 2), x, layer)
    storages = {t.untyped_storage().data_ptr() for t in tensors}
    assert len(storages) > 3
    assert x.untyped_storage().data_ptr() not in storages


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shift', [0, 3])
def test_fused_windows_on_cuda(dtype, shift):
    """In the kernels that a GPU has, with heads that they take."""
    stock = ShiftWindowMSA(32, 2, window_size=7, shift_size=shift, pad_small_map=True)
    layer = ManifoldKeyShiftWindowMSA.adopt(stock, dict(type='SpatialK', num_charts=2))
    randomize(layer, std=0.05).cuda()
    x, hw_shape = torch.randn(2, 20 * 23, 32, device='cuda'), (20, 23)

    def run(t):
        with torch.autocast('cuda', dtype, enabled=dtype != torch.float32):
            return layer(t, hw_shape)

    with forms.recorded() as decisions:
        got, got_grads = gradients(run, x, layer)
    assert 'fused windows' in {decision.form for decision in decisions}
    want, want_grads = gradients(plain(run), x, layer)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    assert_same(got, want, tolerance)
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, tolerance)


@pytest.mark.parametrize(
    ('heads', 'size', 'dtype', 'device', 'why'),
    [
        (2, (14, 14), torch.float32, 'cuda', None),
        (2, (14, 14), torch.float32, 'cpu', 'the device is cpu'),
        (2, (14, 14), torch.bfloat16, 'cuda', None),
        (2, (14, 14), torch.float64, 'cuda', "PyTorch's memory-efficient kernel is"),
        (8, (14, 14), torch.float32, 'cuda', 'heads have no multiple of 8 channels'),
        (
            2,
            (7, 7 * 2**16),
            torch.float32,
            'cuda',
            'there are more than 65,535 windows',
        ),
    ],
)
def test_fused_windows_are_for_what_the_kernel_takes(
    heads, size, dtype, device, why, monkeypatch
):
    monkeypatch.setattr(fused_windows, 'capability', lambda device: (8, 0))
    layer = ShiftWindowMSA(32, heads, window_size=7, pad_small_map=True)
    layer = ManifoldKeyShiftWindowMSA.adopt(layer).to(dtype)
    (form, *_) = (form for form, _ in forms.reasons(layer, torch.ones(1), size, 0))
    query = Query(device=torch.device(device), is_cuda=device == 'cuda', dtype=dtype)
    reason = form.why_slow(layer, query, size, 0)
    reason = reason or form.why_not(layer, query, size, 0)
    assert reason is None if why is None else reason.startswith(why)


class Query(SimpleNamespace):
    """What the choice looks at: one image on a device that need not be there."""

    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ('dtype', 'capability', 'enabled', 'served'),
    [
        (torch.bfloat16, (8, 0), True, True),
        (torch.bfloat16, (7, 5), True, False),
        (torch.float16, (7, 5), True, True),
        (torch.float64, (9, 0), True, False),
        (torch.float32, (0, 0), True, False),
        (torch.float32, (9, 0), False, False),
    ],
)
def test_gpus_that_have_the_kernel(dtype, capability, enabled, served, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    fused_windows.capability.cache_clear()
    before = torch.backends.cuda.mem_efficient_sdp_enabled()
    torch.backends.cuda.enable_mem_efficient_sdp(enabled)
    try:
        assert fused_windows.has_kernel(torch.device('cuda'), dtype) is served
    finally:
        torch.backends.cuda.enable_mem_efficient_sdp(before)
        fused_windows.capability.cache_clear()
