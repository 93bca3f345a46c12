"""ViT's attention: its windows, and the sizes of its relative positions."""

import pytest
import torch
from mmpretrain.models.utils import MultiheadAttention
from oracles import CHANNEL_STRATEGIES, assert_same, randomize

from mmmanikey.attention import ManifoldKeyAttention


def adopt(key=None, window_size=0, rel_pos_size=None, **kwargs):
    """Ours, made of mmpretrain's layer."""
    stock = MultiheadAttention(12, 3, **kwargs)
    return ManifoldKeyAttention.adopt(
        stock, key, window_size=window_size, rel_pos_size=rel_pos_size
    )


@pytest.mark.parametrize('window', [0, 1, 7])
@pytest.mark.parametrize('name', CHANNEL_STRATEGIES)
def test_keys_over_channels_go_with_any_window(name, window):
    layer = adopt(key=dict(type=name), window_size=window)
    assert layer.window_size == window


@pytest.mark.parametrize('bias', [False, True])
def test_query_and_value_have_a_bias_as_the_stock_layer(bias):
    layer = adopt(key=dict(type='VanillaK'), qkv_bias=bias)
    assert (layer.qv.bias is not None) == bias


@pytest.mark.parametrize('window', [0, 14, 28])
def test_the_keys_window_divides_the_attentions(window):
    key = dict(type='SpatialK', num_charts=1)
    layer = adopt(key=key, window_size=window)
    assert layer.key.window_size == (14, 14)
    with pytest.raises(ValueError, match=r'\(14, 14\) does not divide .* \(7, 7\)'):
        adopt(key=key, window_size=7)
    with pytest.raises(ValueError, match=r'\(7, 4\) does not divide .* \(14, 14\)'):
        adopt(key=dict(key, window_size=(7, 4)), window_size=14)


def test_a_relative_position_for_every_offset():
    layer = adopt(rel_pos_size=(5, 7))
    assert layer.rel_pos_h.shape == (9, 4)
    assert layer.rel_pos_w.shape == (13, 4)


@pytest.mark.parametrize(
    ('name', 'value'), [('attn_drop', 2), ('window_size', -1), ('rel_pos_size', 0)]
)
def test_errors_name_the_argument(name, value):
    with pytest.raises(ValueError, match=f'^{name} must be'):
        adopt(**{name: value})


def test_attention_is_global_and_keeps_all_unless_asked():
    layer = adopt()
    assert layer.window_size == 0
    x = torch.randn(1, 4, 12)
    assert torch.equal(layer.train()(x, (2, 2)), layer.eval()(x, (2, 2)))


def test_attention_weights_are_dropped_in_training():
    layer = adopt(attn_drop=1.0, qkv_bias=False)
    x = torch.randn(1, 4, 12)
    assert not torch.equal(layer.eval()(x, (2, 2)), layer.proj.bias.expand(1, 4, -1))
    assert torch.equal(layer.train()(x, (2, 2)), layer.proj.bias.expand(1, 4, -1))


@pytest.mark.parametrize('rel_pos_size', [None, 2])
def test_logits_are_what_the_attention_takes(rel_pos_size):
    """Pictures show their softmax."""
    layer = randomize(adopt(rel_pos_size=rel_pos_size)).eval().double()
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    query, key, value = layer.project(x, (2, 2))
    out = layer.logits(query, key, (2, 2)).softmax(dim=-1) @ value
    out = layer.proj(out.transpose(1, 2).flatten(2))
    assert_same(out, layer.attend(x, (2, 2)), 1e-10)


@pytest.mark.parametrize('other', [dict(v_shortcut=True), dict(input_dims=16)])
def test_layers_that_compute_something_else(other):
    with pytest.raises(ValueError, match='v_shortcut, or with other input_dims'):
        ManifoldKeyAttention.adopt(MultiheadAttention(8, 2, **other))


@pytest.mark.parametrize('options', [dict(window_size=4), dict(rel_pos_size=(4, 4))])
def test_tokens_that_do_not_fill_the_grid(options):
    layer = ManifoldKeyAttention.adopt(MultiheadAttention(8, 2), **options)
    with pytest.raises(ValueError, match='98 tokens do not fill a grid of 14 x 14'):
        layer(torch.randn(2, 98, 8), (14, 14))
    with pytest.raises(ValueError, match='relative positions need hw_shape'):
        layer(torch.randn(2, 98, 8))
