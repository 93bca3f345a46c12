"""Forms of the keys: what they keep, and the pieces that they work in."""

import pytest
import torch
from oracles import (
    CHANNEL_STRATEGIES,
    STRATEGIES,
    TOLERANCE,
    assert_same,
    gradients,
    kept,
    plain,
    randomize,
)

from mmmanikey import keys
from mmmanikey.forms import choice
from mmmanikey.forms import pieces as common
from mmmanikey.forms.gradients import compute
from mmmanikey.forms.token_mixing import TokenMixing
from mmmanikey.keys import build_key

WINDOW = (3, 2)


def make_key(name, **kwargs):
    cfg = dict(type=name, num_charts=4, **kwargs)
    return randomize(build_key(cfg, 8, WINDOW)).double()


@pytest.mark.parametrize('name', STRATEGIES)
def test_no_chart_is_kept_for_the_backward_pass(name):
    """Four charts would be four times the tokens; nothing kept is larger than them."""
    x = torch.randn(5, 6, 8, dtype=torch.float64, requires_grad=True)
    key = make_key(name)
    tensors = kept(key, x, key)
    assert any(tensor.data_ptr() == x.data_ptr() for tensor in tensors)
    assert max(tensor.numel() for tensor in tensors) <= x.numel()


@pytest.mark.parametrize('name', STRATEGIES)
@pytest.mark.parametrize('buffer_bytes', [1, 2000])
def test_pieces_of_any_size_give_the_same_key(name, buffer_bytes, monkeypatch):
    key = make_key(name)
    x = torch.randn(5, 6, 8, dtype=torch.float64)
    want, want_grads = gradients(plain(key), x, key)
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', buffer_bytes)
    monkeypatch.setattr(common, 'FEWEST_TOKENS', 1)
    got, got_grads = gradients(key, x, key)
    assert_same(got, want, TOLERANCE[x.dtype])
    for n, grad in want_grads.items():
        assert_same(got_grads[n], grad, TOLERANCE[x.dtype])


@pytest.mark.parametrize('name', CHANNEL_STRATEGIES)
@pytest.mark.parametrize('buffer_bytes', [1, 2**20])
@pytest.mark.parametrize('approximate', ['none', 'tanh'])
def test_charts_at_once_are_the_same_key(name, buffer_bytes, approximate, monkeypatch):
    """The form of CUDA, here on a CPU."""
    (form,) = (
        each for each in choice.FORMS[getattr(keys, name)] if 'at once' in each.name
    )
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', buffer_bytes)
    monkeypatch.setattr(common, 'FEWEST_TOKENS', 1)
    key = make_key(name, act_cfg=dict(type='GELU', approximate=approximate))
    x = torch.randn(5, 6, 8, dtype=torch.float64)
    assert form.why_not(key, x, None) == 'the device is cpu'
    want, want_grads = gradients(plain(key), x, key)
    got, got_grads = gradients(lambda t: form(key, t, None), x, key)
    assert_same(got, want, TOLERANCE[x.dtype])
    for n, grad in want_grads.items():
        assert_same(got_grads[n], grad, TOLERANCE[x.dtype])
    tensors = kept(lambda t: form(key, t, None), x.requires_grad_(), key)
    weights = 4 * 8 * 8  # of the folded layers
    assert max(tensor.numel() for tensor in tensors) <= max(x.numel(), weights)
    assert form(key, x[:0], None).shape == (0, 6, 8)
    seconds = []
    for function in (lambda t: form(key, t, None), plain(key)):
        (grad,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        seconds += torch.autograd.grad(grad.square().sum(), [x, key.scale])
    for got, want in zip(seconds[:2], seconds[2:]):
        assert_same(got, want, TOLERANCE[x.dtype])


@pytest.mark.parametrize('name', STRATEGIES)
def test_input_without_gradient_and_empty_batch(name):
    """The first layer of a frozen network gets no gradient; a batch may be empty."""
    key = make_key(name)
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    key(x).sum().backward()
    assert all(p.grad is not None for p in key.parameters())
    assert key(x[:0]).shape == (0, 6, 8)


@pytest.mark.parametrize('name', STRATEGIES)
@pytest.mark.parametrize('approximate', ['none', 'tanh'])
def test_both_forms_of_gelu(name, approximate):
    key = make_key(name, act_cfg=dict(type='GELU', approximate=approximate))
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    want, want_grads = gradients(plain(key), x, key)
    got, got_grads = gradients(key, x, key)
    assert_same(got, want, TOLERANCE[x.dtype])
    for n, grad in want_grads.items():
        assert_same(got_grads[n], grad, TOLERANCE[x.dtype])


@pytest.mark.parametrize('name', STRATEGIES)
def test_compilers_see_one_graph(name):
    key = make_key(name)
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    compiled = torch.compile(key, backend='eager', fullgraph=True)
    want, want_grads = gradients(plain(key), x, key)
    got, got_grads = gradients(compiled, x, key)
    assert_same(got, want, TOLERANCE[x.dtype])
    for n, grad in want_grads.items():
        assert_same(got_grads[n], grad, TOLERANCE[x.dtype])


@pytest.mark.parametrize('name', STRATEGIES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_trains(name, dtype):
    """Gradients in half precision are those of float32, to a few of its steps."""
    key = make_key(name).float()
    x = torch.randn(2, 6, 8)
    want, want_grads = gradients(key, x, key)
    got, got_grads = gradients(key.to(dtype), x.to(dtype), key)
    assert got.dtype == dtype
    assert_same(got.float(), want, 0.05)
    for n, grad in want_grads.items():
        assert_same(got_grads[n].float(), grad, 0.1)


def summed(key, x):
    """Gradients of the sum of the mean chart, by the form, whatever the device."""
    parameters = key.conv1.weight.flatten(1), key.conv1.bias, key.scale
    compute(TokenMixing(x, *parameters, 'none')).sum().backward()


def test_half_precision_sums_in_float32(monkeypatch):
    """In bfloat16 a sum of 512 ones, one by one, would end at 256."""
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', 1)  # a window at a time
    key = build_key(dict(type='SpatialK', num_charts=2), 8, WINDOW)
    x = torch.rand(512, 6, 8)  # what is added up has one sign
    summed(key, x)
    want = {n: p.grad for n, p in key.named_parameters() if p.grad is not None}
    assert set(want) == {'scale', 'conv1.weight', 'conv1.bias'}
    key.zero_grad()
    summed(key.bfloat16(), x.bfloat16())
    for n, parameter in key.named_parameters():
        if n in want:
            assert_same(parameter.grad.float(), want[n], 0.03)


@pytest.mark.parametrize('name', STRATEGIES)
def test_autocast_keeps_parameters_in_float32(name):
    key = make_key(name).float()
    x = torch.randn(2, 6, 8)
    _, want = gradients(key, x, key)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out, grads = gradients(lambda t: key(t), x, key)
    assert out.dtype == torch.bfloat16
    for n, grad in want.items():
        assert grads[n].dtype == torch.float32
        assert_same(grads[n], grad, 0.1)


@pytest.mark.parametrize(
    ('start', 'end', 'bytes_each', 'fewest', 'cuts'),
    [
        (3, 13, 10, 1, [3, 7, 11, 13]),
        (0, 9, 10, 1, [0, 3, 6, 9]),  # evenly, and not 4, 4, 1
        (0, 4, 10, 1, [0, 4]),
        (0, 5, 40, 1, [0, 1, 2, 3, 4, 5]),
        (0, 3, 41, 1, [0, 1, 2, 3]),  # one does not fit, but has to go
        (0, 4, 41, 2, [0, 2, 4]),
        (2, 2, 10, 1, [2]),
    ],
)
def test_pieces_fit_a_buffer(start, end, bytes_each, fewest, cuts, monkeypatch):
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', 40)
    slices = common.pieces(start, end, bytes_each, torch.device('cpu'), fewest)
    assert slices == [slice(*cut) for cut in zip(cuts, cuts[1:])]


def test_pieces_of_tokens_hold_enough(monkeypatch):
    x = torch.randn(18, 8)
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', 16 * 4)  # one token
    for fewest, lengths in ((7, [6, 6, 6]), (1, [1] * 18), (20, [18])):
        monkeypatch.setattr(common, 'FEWEST_TOKENS', fewest)
        cuts = common.token_pieces(x, 16)
        assert [cut.stop - cut.start for cut in cuts] == lengths


def test_tensors_are_cast_together_as_one_by_one():
    """Values and gradients of ``to``; what is frozen stays without a gradient."""
    shapes, frozen = ((3, 4), (5,), (2, 2, 1)), 1
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    leaves[frozen].requires_grad_(False)
    cast = common.cast_together(torch.bfloat16, *leaves)
    assert [x.requires_grad for x in cast] == [True, False, True]
    assert {type(x.grad_fn).__name__ for x in cast[::2]} == {'CastTogetherBackward'}
    for leaf, x in zip(leaves, cast):
        assert torch.equal(x, leaf.to(torch.bfloat16))
    outer = torch.randn(3, 4)
    grads = torch.autograd.grad((cast[0] * outer).sum(), leaves[::2], allow_unused=True)
    assert torch.equal(grads[0], outer.to(torch.bfloat16).float())
    assert grads[1] is None
    (grad,) = torch.autograd.grad(cast[0].pow(3).sum(), leaves[0], create_graph=True)
    assert torch.autograd.grad(grad.sum(), leaves[0])[0].any()
    other = common.cast_together(torch.bfloat16, leaves[0], leaves[0].double())
    assert [x.dtype for x in other] == [torch.bfloat16] * 2


def test_autocast_of_older_torch(monkeypatch):
    """Until torch 2.4 the CPU had functions of its own, and the GPU those without."""
    assert common.autocast_dtype('cpu') is None
    with torch.autocast('cpu', dtype=torch.float16):
        monkeypatch.delattr(torch, 'get_autocast_dtype', raising=False)
        assert common.autocast_dtype('cpu') == torch.float16
        monkeypatch.setattr(torch, 'is_autocast_enabled', lambda: False)
        assert common.autocast_dtype('cuda') is None
        monkeypatch.setattr(torch, 'is_autocast_enabled', lambda: True)
        monkeypatch.setattr(torch, 'get_autocast_gpu_dtype', lambda: torch.bfloat16)
        assert common.autocast_dtype('cuda') == torch.bfloat16


def test_shared_layer_that_was_replaced_or_has_hooks_is_called():
    """SimpleK's second layer stays out of the fast form, as an adapter needs it."""
    key, x = make_key('SimpleK'), torch.randn(2, 6, 8, dtype=torch.float64)
    want = plain(key)(x)
    calls = []
    handle = key.out.register_forward_hook(lambda *call: calls.append(call[0]))
    assert_same(key(x), want, TOLERANCE[x.dtype])
    assert calls == [key.out]
    handle.remove()
    key.out = torch.nn.Sequential(key.out, torch.nn.Tanh())
    assert_same(key(x), want.tanh(), TOLERANCE[x.dtype])
