"""Window attention: stock without a key, and what a key replaces."""

import pytest
import torch
from mmpretrain.models.utils import MultiheadAttention, ShiftWindowMSA, WindowMSA
from mmpretrain.models.utils.attention import WindowMSAV2
from oracles import STOCK_TOLERANCE, STRATEGIES, assert_same, plain, randomize
from torch import nn

from mmmanikey.attention import ManifoldKeyAttention, ManifoldKeyWindowMSA
from mmmanikey.keys import VanillaK


def adopt(window=(4, 4), key=None, **kwargs):
    """Ours, made of mmpretrain's layer."""
    stock = WindowMSA(12, window, 3, **kwargs)
    return ManifoldKeyWindowMSA.adopt(stock, key)


def make(**kwargs):
    return randomize(adopt(**kwargs).double()).eval()


def shift_mask():
    return ShiftWindowMSA.get_attn_mask((8, 8), 4, 2).double()


def plain_attention(module, query, key, value, mask):
    """Swin's attention written out, for one window after the other."""
    num_heads, head_dims = module.num_heads, module.embed_dims // module.num_heads
    outs = []
    for i in range(len(query)):
        heads = []
        for h in range(num_heads):
            part = slice(h * head_dims, (h + 1) * head_dims)
            logits = query[i, :, part] @ key[i, :, part].t() * head_dims**-0.5
            table = module.relative_position_bias_table[:, h]
            logits = logits + table[module.relative_position_index]
            if mask is not None:
                logits = logits + mask[i % len(mask)]
            heads.append(logits.softmax(dim=-1) @ value[i, :, part])
        outs.append(torch.cat(heads, dim=-1))
    return module.proj(torch.stack(outs))


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('qk_scale', [None, 0.7])
def test_without_key_it_is_the_stock_layer(masked, qk_scale):
    ours = make(qk_scale=qk_scale)
    stock = WindowMSA(12, (4, 4), 3, qk_scale=qk_scale).double().eval()
    stock.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(8, 16, 12, dtype=torch.float64)
    mask = shift_mask() if masked else None
    assert_same(ours(x, mask), stock(x, mask), STOCK_TOLERANCE)


@pytest.mark.parametrize('window', [(2, 3), (3, 2)])
@pytest.mark.parametrize('qkv_bias', [False, True])
def test_windows_need_not_be_square(window, qkv_bias):
    ours = adopt(window, qkv_bias=qkv_bias)
    ours = randomize(ours.double()).eval()
    stock = WindowMSA(12, window, 3, qkv_bias=qkv_bias).double().eval()
    stock.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    assert_same(ours(x), stock(x), STOCK_TOLERANCE)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('name', STRATEGIES)
def test_key_takes_the_place_of_the_linear_key(name, masked):
    module = make(key=dict(type=name, num_charts=2))
    assert not hasattr(module, 'qkv')
    x = torch.randn(8, 16, 12, dtype=torch.float64)
    mask = shift_mask() if masked else None
    # rows of qv: query first, then value
    query = x @ module.qv.weight[:12].t() + module.qv.bias[:12]
    value = x @ module.qv.weight[12:].t() + module.qv.bias[12:]
    key = plain(module.key)(x)
    expected = plain_attention(module, query, key, value, mask)
    assert_same(module(x, mask), expected, 1e-10)


@pytest.mark.parametrize('name', STRATEGIES)
def test_residual_key_is_added_to_the_linear_key(name):
    module = make(key=dict(type=name, num_charts=2, residual=True))
    x = torch.randn(8, 16, 12, dtype=torch.float64)
    query, key, value = module.qkv(x).split(12, dim=-1)
    key = key + plain(module.key)(x)
    expected = plain_attention(module, query, key, value, shift_mask())
    assert_same(module(x, shift_mask()), expected, 1e-10)


@pytest.mark.parametrize('initialise', [False, True])
@pytest.mark.parametrize('name', STRATEGIES)
def test_residual_key_is_zero_at_start(name, initialise):
    module = adopt(key=dict(type=name, residual=True))
    if initialise:
        module.init_weights()
    assert not module.key(torch.randn(2, 16, 12)).any()


def test_dropout_acts_in_training_only():
    module = make(attn_drop=0.5, proj_drop=0.0)
    x = torch.randn(2, 16, 12, dtype=torch.float64)
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))


def test_a_window_that_is_not_the_attentions():
    with pytest.raises(ValueError, match=r'window of the key \(7, 7\) must be the win'):
        adopt(key=dict(type='SpatialK', window_size=7))


def test_the_attentions_own_window_may_be_named():
    module = make(key=dict(type='SpatialK', window_size=4))
    assert module.key.window_size == (4, 4)


class SideK(VanillaK):
    """A user's key, which keeps its window as the config names it."""

    needs_window = True

    def __init__(self, embed_dims, window_size):
        super().__init__(embed_dims)
        self.window_size = window_size


def test_the_window_of_a_users_key_may_be_one_number():
    adopt(key=dict(type=SideK, window_size=4))
    with pytest.raises(ValueError, match=r'window of the key \(7, 7\) must be the win'):
        adopt(key=dict(type=SideK, window_size=7))
    layer = MultiheadAttention(12, 2)
    adopted = ManifoldKeyAttention.adopt(layer, dict(type=SideK, window_size=2), 4)
    assert adopted.key.window_size == 2


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(qk_scale=-1.0), '^qk_scale must be'),
        (dict(key=dict(type='KUA', embed_dims=8)), '8 channels to 8 in a layer of 12'),
        (dict(key=dict(type='KUA', out_dims=8)), '12 channels to 8 in a layer of 12'),
    ],
)
def test_errors_say_what_is_wrong(kwargs, message):
    with pytest.raises(ValueError, match=message):
        adopt(**kwargs)


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match='got 5 heads for 12 channels'):
        ManifoldKeyWindowMSA.adopt(WindowMSA(12, (4, 4), 5))


@pytest.mark.parametrize('other', [nn.Identity, WindowMSAV2])
def test_another_layer_is_not_adopted(other):
    layer = other(12, (4, 4), 3)
    with pytest.raises(TypeError, match=f'of a WindowMSA, got a {other.__name__}'):
        ManifoldKeyWindowMSA.adopt(layer)
    assert type(layer) is other


def test_adopting_changes_the_layer_in_place():
    stock = WindowMSA(12, (4, 4), 3)
    weight = stock.qkv.weight
    ours = ManifoldKeyWindowMSA.adopt(stock)
    assert ours is stock
    assert ours.qkv.weight is weight
    assert ours.has_linear_key


def test_a_table_of_no_square_window_is_named():
    weights = {'relative_position_bias_table': torch.zeros(8, 3)}
    ((name, why),) = adopt((4, 4)).adapt_tables(weights, '')
    assert name == 'relative_position_bias_table'
    assert '8 rows' in why


@pytest.mark.parametrize('rows', [25, 49])
def test_a_table_of_other_heads_is_left_alone(rows):
    table = torch.zeros(rows, 4)
    weights = {'relative_position_bias_table': table}
    assert not list(adopt((4, 4)).adapt_tables(weights, ''))
    assert weights == {'relative_position_bias_table': table}
