"""The feed-forward network in pieces: mmcv's, and only where its layers are its own."""

import copy

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.peft.lora import LoRALinear
from oracles import TOLERANCE, assert_same, gradients, randomize
from torch import nn

from mmmanikey import forms
from mmmanikey.backbones.ffn import adopt_ffn
from mmmanikey.forms import perceptron
from mmmanikey.forms import pieces as common
from mmmanikey.forms.perceptron import Perceptron


def adopted(stock):
    """mmcv's network, made ours."""
    adopt_ffn(stock, context_broadcasting=False)
    return stock


@pytest.mark.parametrize(
    ('kwargs', 'in_pieces'),
    [
        (dict(), True),
        (dict(add_identity=False), True),
        (dict(layer_scale_init_value=0.5), True),
        (dict(num_fcs=3), False),
        (dict(act_cfg=dict(type='ReLU')), False),
    ],
)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_ffn_is_mmcvs(kwargs, in_pieces, dtype, monkeypatch):
    buffer_bytes = 5 * 16 * dtype.itemsize  # 5 of 18 tokens
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', buffer_bytes)
    monkeypatch.setattr(common, 'FEWEST_TOKENS', 1)
    stock = FFN(8, 16, **{'act_cfg': dict(type='GELU'), **kwargs})
    stock = randomize(stock).to(dtype)
    ours = adopted(copy.deepcopy(stock))
    x = torch.randn(2, 9, 8, dtype=dtype)
    assert (forms.find(ours, x) is not None) == in_pieces
    ours.load_state_dict(stock.state_dict(), strict=True)
    want, want_grads = gradients(lambda t: stock(t, t.flip(1)), x, stock)
    got, got_grads = gradients(lambda t: ours(t, t.flip(1)), x, ours)
    assert_same(got, want, TOLERANCE[x.dtype])
    assert_same(ours(x), stock(x), TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


@pytest.mark.parametrize('shape', [(16,), (0, 16), (2, 0, 16), (2, 3, 4, 16)])
def test_ffn_of_any_shape(shape):
    model = adopted(FFN(16, 64, num_fcs=2))
    out = model(torch.randn(shape))
    assert out.shape == shape
    with forms.use('plain'):
        assert model(torch.randn(shape)).shape == shape


def test_ffn_keeps_one_hidden_layer():
    """The stock one keeps what enters GELU and what leaves it."""
    stock = FFN(8, 16, act_cfg=dict(type='GELU'))
    ours = adopted(copy.deepcopy(stock))
    x = torch.randn(2, 9, 8, requires_grad=True)
    hidden = 2 * 9 * 16
    assert kept(ours, x).count(hidden) == 1
    assert kept(stock, x).count(hidden) == 2
    with torch.no_grad():
        assert kept(ours, x) == []


def test_no_products_for_frozen_weights(monkeypatch):
    made = []
    outer = perceptron.outer
    monkeypatch.setattr(perceptron, 'outer', lambda a, b: made.append(a) or outer(a, b))
    ours, x = adopted(FFN(8, 16, act_cfg=dict(type='GELU'))), torch.randn(2, 9, 8)
    for frozen in range(3):
        made.clear()
        ours(x.requires_grad_()).sum().backward()
        assert len(made) == 2 - frozen
        [ours.layers[0][0], ours.layers[1], ours][frozen].requires_grad_(False)


def kept(model, x):
    """Sizes of what a forward pass keeps for the backward pass."""
    sizes = []
    hooks = torch.autograd.graph.saved_tensors_hooks
    with hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        model(x)
    return sizes


def pieces_and_memory(tokens, hidden_dims):
    weight = torch.empty(hidden_dims, tokens.shape[1])
    return Perceptron(tokens, weight, *[None] * 6, 'none').pieces_and_memory()


def test_ffn_pieces_hold_enough_tokens(monkeypatch):
    monkeypatch.setattr(common, 'FEWEST_TOKENS', 7)
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', 16 * 4)  # one token
    for count, lengths in ((18, [6, 6, 6]), (7, [7]), (8, [4, 4])):
        cuts, hidden = pieces_and_memory(torch.randn(count, 8), 16)
        assert [cut.stop - cut.start for cut in cuts] == lengths
        assert hidden.shape == (lengths[0], 16)
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', 16 * 4 * 9)
    cuts, _ = pieces_and_memory(torch.randn(18, 8), 16)
    assert [cut.stop - cut.start for cut in cuts] == [9, 9]


@pytest.mark.parametrize('index', [0, 1])
@pytest.mark.parametrize(
    'change',
    [
        lambda layer: LoRALinear(layer, alpha=4, rank=2),
        lambda layer: nn.Sequential(layer, nn.Tanh()),
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
    ],
    ids=['lora', 'wrapped', 'hook', 'parametrized'],
)
def test_ffn_calls_layers_that_were_changed(change, index):
    """mmpretrain's adapter, for one, has no weight to be read."""
    stock = FFN(8, 16, act_cfg=dict(type='GELU'))
    layers, name = (stock.layers[0], '0') if index == 0 else (stock.layers, '1')
    setattr(layers, name, change(getattr(layers, name)))
    randomize(stock).double()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    want, want_grads = gradients(stock, x, stock)
    ours = adopted(stock)
    got, got_grads = gradients(ours, x, ours)
    assert_same(got, want, TOLERANCE[x.dtype])
    assert want_grads.keys() == got_grads.keys()
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


@pytest.mark.parametrize(
    'register',
    [
        'forward_hook',
        'forward_pre_hook',
        'full_backward_hook',
        'full_backward_pre_hook',
    ],
)
def test_ffn_runs_hooks_of_its_layers(register):
    ours = adopted(FFN(8, 16, act_cfg=dict(type='GELU')))
    x = torch.randn(2, 9, 8, requires_grad=True)
    calls = []
    for layer in (ours.layers[0][0], ours.layers[0][1], ours.layers[1]):
        assert forms.find(ours, x) is not None
        hook = getattr(layer, f'register_{register}')
        handle = hook(lambda module, *_: calls.append(module))
        ours(x).sum().backward()
        handle.remove()
        assert calls.pop() is layer
        assert not calls


def test_ffn_with_dropout_drops():
    """While training every hidden value is dropped: the second bias is left."""
    ours = adopted(FFN(8, 16, act_cfg=dict(type='GELU'), ffn_drop=1.0))
    x = torch.randn(2, 9, 8)
    assert torch.equal(ours(x), x)
    assert not torch.equal(ours.train(False)(x), x)
