"""Layers that carry a key: torch's attention with all its options, copies, adapters."""

import itertools

import pytest
import torch
from oracles import randomize
from torch import nn

import mmmanikey
from mmmanikey.attention import keyed
from mmmanikey.keys import build_key

KEY = dict(type='VanillaK', num_charts=2, residual=True)
OPTIONS = list(
    itertools.product(
        (True, False),  # batch_first
        (True, False),  # bias
        (True, False),  # add_zero_attn
        (None, 6),  # kdim
        ('none', 'bool', 'float', 'padding'),
        (True, False),  # need_weights
    )
)


@pytest.mark.parametrize(
    ('batch_first', 'bias', 'zero', 'kdim', 'mask', 'weights'), OPTIONS
)
def test_attention_of_torch(batch_first, bias, zero, kdim, mask, weights):
    options = dict(bias=bias, add_zero_attn=zero, kdim=kdim, batch_first=batch_first)
    model = randomize(nn.MultiheadAttention(8, 2, **options), std=0.2).eval()
    query, value = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    key = torch.randn(3, 7, kdim or 8)
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    given = dict(need_weights=weights)
    if mask == 'bool':
        given['attn_mask'] = torch.rand(5, 7) > 0.7
    elif mask == 'float':
        given['attn_mask'] = torch.randn(5, 7)
    elif mask == 'padding':
        given['key_padding_mask'] = torch.arange(7) >= torch.tensor([[7], [5], [3]])
    expected = model(query, key, value, **given)
    mmmanikey.insert_keys(model, KEY, example=(query, key, value))
    assert model.key.out_dims == 8
    assert_equal(model(query, key, value, **given), expected)
    nn.init.normal_(model.key.conv2.weight)
    changed = model(query, key, value, **given)
    assert (changed[0] - expected[0]).abs().max() > 1e-3
    mmmanikey.remove_keys(model)
    assert type(model) is nn.MultiheadAttention
    assert_equal(model(query, key, value, **given), expected)


def assert_equal(found, expected):
    for one, other in zip(found, expected):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_unbatched_and_self_attention():
    model = randomize(nn.MultiheadAttention(8, 2), std=0.2)
    x = torch.randn(5, 8)
    expected = model(x, x, x)
    mmmanikey.insert_keys(model, KEY, example=(x, x, x))
    assert_equal(model(x, x, x), expected)


def test_the_layer_that_passes_its_attention_by():
    """In evaluation torch's encoder layer computes a fused attention of its own."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    expected = layer(x).detach()
    mmmanikey.insert_keys(layer, KEY, example=x)
    nn.init.normal_(layer.self_attn.key.conv2.weight)
    with torch.no_grad():
        assert (layer(x) - expected).abs().max() > 1e-3
    mmmanikey.remove_keys(layer)
    assert not layer.self_attn._forward_pre_hooks
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-6)


def test_padded_sequences():
    """Without a graph torch's encoder makes them nested, and skips the padding."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = (
        torch.randn(2, 5, 8),
        torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
    )
    mmmanikey.insert_keys(model, KEY, example=x)
    for layer in model.layers:
        nn.init.normal_(layer.self_attn.key.conv2.weight)
    expected = model(x, src_key_padding_mask=padding)
    with torch.no_grad():
        found = model(x, src_key_padding_mask=padding)
    assert torch.allclose(found[~padding], expected[~padding], atol=1e-6)
    assert not found[padding].any()


def test_an_attention_that_derives_from_torchs():
    class SelfAttention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x, need_weights=False)[0]

    model = randomize(SelfAttention(8, 2), std=0.2)
    x = torch.randn(5, 2, 8)
    expected = model(x)
    mmmanikey.insert_keys(model, KEY, example=x)
    assert torch.allclose(model(x), expected, atol=1e-6)
    nn.init.normal_(model.key.conv2.weight)
    assert (model(x) - expected).abs().max() > 1e-3


def test_learned_keys_besides_the_tokens():
    model = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    x = torch.randn(5, 2, 8)
    with pytest.raises(ValueError, match='has a key besides those of the tokens'):
        mmmanikey.insert_keys(model, KEY, example=(x, x, x))


def keyed_layer(layer, rows, key):
    layer.__class__ = keyed.keyed_class(type(layer), keyed.KeyedLayer)
    layer.put_key(key, torch.tensor(rows), None, 0)
    return layer


ROWS = ([0, 1, 2], [4, 5, 6], [9, 10, 11], [0, 1, 5], list(range(12)))


@pytest.mark.parametrize('rows', ROWS, ids=str)
@pytest.mark.parametrize('dims', [0, 1, 2])
def test_the_key_comes_to_its_channels_alone(rows, dims):
    convs = nn.Linear, nn.Conv1d, nn.Conv2d
    stock = convs[dims](8, 12, *[1] * (dims > 0))
    x = torch.randn(3, 8, *[5] * dims) if dims else torch.randn(3, 5, 8)
    expected = stock(x)
    key = build_key(dict(type='VanillaK', num_charts=2, out_dims=len(rows)), 8)
    change = keyed_layer(stock, rows, key)(x) - expected
    at = 1 if dims else -1
    k = key(x.movedim(at, -1).reshape(3, -1, 8)).reshape(
        *x.movedim(at, -1).shape[:-1], -1
    )
    others = [i for i in range(12) if i not in rows]
    change = change.movedim(at, -1)
    assert torch.allclose(change[..., rows], k, atol=1e-6)
    assert not change[..., others].any()


def test_a_new_layer_of_the_class_is_stock():
    """Adapters make layers of the class of what they adapt."""
    layer = keyed_layer(nn.Linear(8, 8), list(range(8)), build_key(KEY, 8))
    made = type(layer)(3, 4)
    assert type(made) is nn.Linear
    assert made.weight.shape == (4, 3)


def test_a_layers_own_start_is_not_left_out():
    class Own(nn.Linear):
        def init_weights(self):
            nn.init.constant_(self.weight, 7.0)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (Own(8, 8) for _ in range(3))

        def forward(self, x):
            q, k, v = (layer(x)[:, None] for layer in (self.q, self.k, self.v))
            return nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]

    model = Attention()
    key = dict(type='VanillaK', num_charts=2, residual=True)
    mmmanikey.insert_keys(model, key, example=torch.randn(2, 5, 8))
    model.k.init_weights()
    assert (model.k.weight == 7).all()
    assert not model.k.key.conv2.weight.any()
