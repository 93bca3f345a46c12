"""Small inputs run in what is faster for them, where nothing is kept."""

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.utils import ShiftWindowMSA

from mmmanikey import forms
from mmmanikey.attention import ManifoldKeyShiftWindowMSA
from mmmanikey.backbones.ffn import adopt_ffn
from mmmanikey.forms import choice, crossovers

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


def test_few_values_are_told_before_anything_inside_is_looked_at(monkeypatch):
    monkeypatch.setattr(choice, 'why_changed', None)
    x = torch.randn(1, TOKENS, DIMS)
    with torch.no_grad():
        assert chosen(ffn(), x) == 'plain'
        assert chosen(windows(), x, (7, 7), 0) == 'plain'


def test_layers_of_other_classes_are_refused_as_ever():
    layer, x = windows(), torch.randn(1, TOKENS, DIMS)
    layer.w_msa = torch.nn.Identity()
    with torch.no_grad():
        reasons = {form.name: why for form, why in forms.reasons(layer, x, (7, 7), 0)}
    assert reasons['windows in pieces'] == 'w_msa is a Identity'
