"""Small inputs run in what is faster for them, where nothing is kept."""

import pytest
import tiny
import torch
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.utils import ShiftWindowMSA

from mmmanikey import forms
from mmmanikey.attention import ManifoldKeyShiftWindowMSA
from mmmanikey.backbones.ffn import adopt_ffn
from mmmanikey.forms import choice, crossovers
from mmmanikey.keys import build_key

DIMS, TOKENS = 8, 49


def ffn():
    stock = FFN(DIMS, 16, act_cfg=dict(type='GELU'))
    adopt_ffn(stock, context_broadcasting=False)
    return stock


def windows():
    stock = ShiftWindowMSA(DIMS, 2, window_size=7, pad_small_map=True)
    return ManifoldKeyShiftWindowMSA.adopt(stock)


def chosen(layer, *inputs):
    form = forms.find(layer, *inputs)
    return 'plain' if form is None else form.name


@pytest.mark.parametrize(
    ('name', 'make', 'others'),
    [('tokens in pieces', ffn, ()), ('windows in pieces', windows, ((7, 7), 0))],
)
def test_plain_code_runs_on_few_values(name, make, others, monkeypatch):
    layer, x = make(), torch.randn(1, TOKENS, DIMS)
    assert x.numel() < crossovers.FEWEST_VALUES[name]
    assert chosen(layer, x, *others) == name  # for what it does not keep
    with torch.no_grad():
        assert chosen(layer, x, *others) == 'plain'
        refused = {form.name: why for form, why in forms.reasons(layer, x, *others)}
        assert refused[name] == 'fewer than 100,000 values, and nothing is kept'
        with crossovers.ignored():
            assert chosen(layer, x, *others) == name
        monkeypatch.setitem(crossovers.FEWEST_VALUES, name, x.numel())
        assert chosen(layer, x, *others) == name
        monkeypatch.setitem(crossovers.FEWEST_VALUES, name, x.numel() + 1)
        assert chosen(layer, x, *others) == 'plain'


@pytest.mark.parametrize('name', ['VanillaK', 'SimpleK', 'KUA'])
def test_charts_are_dense_where_they_fit_the_cache(name, monkeypatch):
    key, x = build_key(dict(type=name, num_charts=2), DIMS), torch.randn(2, 5, DIMS)
    hidden_bytes = 4 * 10 * len(key.conv1.bias)
    monkeypatch.setattr(crossovers, 'DENSE_TOKENS', 10)
    monkeypatch.setattr(crossovers, 'DENSE_BYTES', hidden_bytes)
    assert chosen(key, x, None) == 'charts in pieces'
    with torch.no_grad():
        assert chosen(key, x, None) == 'dense charts'
        monkeypatch.setattr(crossovers, 'DENSE_BYTES', hidden_bytes - 1)
        assert chosen(key, x, None) == 'charts in pieces'
        monkeypatch.setattr(crossovers, 'DENSE_BYTES', hidden_bytes)
        monkeypatch.setattr(crossovers, 'DENSE_TOKENS', 11)
        assert chosen(key, x, None) == 'charts in pieces'


@pytest.mark.parametrize('key', [None, 'SpatialK', 'VanillaK'])
def test_the_log_does_not_grow_with_the_sizes_of_images(key, monkeypatch):
    monkeypatch.setattr(choice, 'LOGGED', set())
    monkeypatch.setattr(crossovers, 'DENSE_TOKENS', 1)  # some charts are dense
    model = tiny.swin(key and dict(type=key, num_charts=2))
    logged = []
    for size in (32, 40, 48, 56, 64):
        with torch.no_grad():
            model(torch.randn(1, 3, size, 32))
        logged.append(len(choice.LOGGED))
    assert 0 < logged[0] == logged[-1]
