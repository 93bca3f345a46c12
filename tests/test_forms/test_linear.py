"""Linear layers by oneDNN: the same function, and only where it applies."""

import pytest
import torch
import torch.nn.functional as F
from oracles import (
    CHANNEL_STRATEGIES,
    TOLERANCE,
    assert_same,
    gradients,
    plain,
    randomize,
)

from mmmanikey.forms import linear as module
from mmmanikey.forms.linear import add_linear, linear, onednn_applies
from mmmanikey.keys import build_key

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason='PyTorch built without oneDNN'
)


@pytest.fixture(params=[False, pytest.param(True, marks=needs_onednn)])
def has_onednn(request, monkeypatch):
    monkeypatch.setattr(module, 'HAS_ONEDNN', request.param)
    return request.param


def operators(function):
    """What a function runs, as PyTorch's profiler names it, and its result."""
    with torch.profiler.profile() as profile:
        out = function()
    return {event.key for event in profile.key_averages()}, out


@pytest.mark.parametrize('gelu', [None, 'none', 'tanh'])
@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('strided', [False, True])
def test_linear_layer_and_gelu(gelu, with_bias, strided, has_onednn):
    x, bias = torch.randn(11, 5), torch.randn(7) if with_bias else None
    weight = torch.randn(5, 7).t() if strided else torch.randn(7, 5)
    names, got = operators(lambda: linear(x, weight, bias, gelu))
    want = x.double() @ weight.double().t() + (bias if with_bias else 0)
    want = want if gelu is None else F.gelu(want, approximate=gelu)
    assert_same(got.double(), want, TOLERANCE[torch.float32])
    assert ('mkldnn::_linear_pointwise' in names) == has_onednn
    assert linear(x[:0], weight, bias, gelu).shape == (0, 7)


@pytest.mark.parametrize('strided', [False, True])
def test_added_linear_layer(strided, has_onednn):
    total, x = torch.randn(11, 7), torch.randn(11, 5)
    weight = torch.randn(5, 7).t() if strided else torch.randn(7, 5)
    want = total.double() + x.double() @ weight.double().t()
    names, _ = operators(lambda: add_linear(total, x, weight))
    assert_same(total.double(), want, TOLERANCE[torch.float32])
    assert ('mkldnn::_linear_pointwise' in names) == has_onednn


@needs_onednn
def test_where_onednn_applies():
    x = torch.randn(3, 5)
    assert onednn_applies(x)
    assert not onednn_applies(x.double())
    assert not onednn_applies(x.bfloat16())
    assert not onednn_applies(x.to('meta'))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn_applies(x)


@pytest.mark.parametrize('approximate', ['none', 'tanh'])
@pytest.mark.parametrize('name', CHANNEL_STRATEGIES)
def test_charts(name, approximate, has_onednn):
    """Keys and all gradients in float32, with oneDNN and without."""
    act = dict(type='GELU', approximate=approximate)
    key = randomize(build_key(dict(type=name, num_charts=3, act_cfg=act), 8), 0.1)
    x = torch.randn(2, 9, 8)
    want, want_grads = gradients(plain(key), x, key)
    names, (got, got_grads) = operators(lambda: gradients(key, x, key))
    assert ('mkldnn::_linear_pointwise' in names) == has_onednn
    assert_same(got, want, TOLERANCE[torch.float32])
    for n, grad in want_grads.items():
        assert_same(got_grads[n], grad, TOLERANCE[torch.float32])


@needs_onednn
@pytest.mark.parametrize('name', CHANNEL_STRATEGIES)
def test_charts_by_onednn_without_gradient(name):
    key = randomize(build_key(dict(type=name, num_charts=3), 8), 0.1)
    x = torch.randn(2, 9, 8)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            names, got = operators(lambda: key(x))
            assert_same(got, plain(key)(x), TOLERANCE[torch.float32])
        assert 'mkldnn::_linear_pointwise' in names
