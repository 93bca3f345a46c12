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

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.forms import linear as module
from mmmanikey.forms.linear import (
    add_linear,
    add_outer,
    apply_linear,
    dense,
    linear,
    linear_to,
    must_be_exact,
    onednn_applies,
    outer,
)
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


@pytest.mark.parametrize(
    'strided',
    [lambda b: b.repeat_interleave(2)[::2], lambda b: b[:1].expand(7), lambda b: b[:1]],
    ids=['gaps', 'one value', 'a bias that broadcasts'],
)
def test_biases_of_any_strides(strided, has_onednn):
    """Of other strides oneDNN reads what lies behind in memory."""
    x, weight, bias = torch.randn(11, 5), torch.randn(7, 5), strided(torch.randn(7))
    layer = torch.nn.Linear(5, 7)
    layer.weight.data, layer.bias.data = weight, bias
    want = F.linear(x, weight, bias)
    for got in (linear(x, weight, bias), apply_linear(layer, x)):
        assert_same(got, want, TOLERANCE[torch.float32])
    apply_linear(layer, x).sum().backward()
    assert_same(layer.bias.grad, torch.full_like(bias, 77 / len(bias)), 1e-5)


@pytest.mark.parametrize('strided', [False, True])
def test_added_linear_layer(strided, has_onednn):
    total, x = torch.randn(11, 7), torch.randn(11, 5)
    weight = torch.randn(5, 7).t() if strided else torch.randn(7, 5)
    want = total.double() + x.double() @ weight.double().t()
    names, _ = operators(lambda: add_linear(total, x, weight))
    assert_same(total.double(), want, TOLERANCE[torch.float32])
    assert ('mkldnn::_linear_pointwise' in names) == has_onednn


@needs_onednn
@pytest.mark.parametrize(
    'strided',
    [
        lambda w: torch.cat([w, w], dim=1)[:, :5],
        lambda w: torch.cat([w, w], dim=1)[:, :5].t().contiguous().t()[::2],
        lambda w: w[:1].expand(7, -1),
        lambda w: w[:, :1].expand(-1, 5),
    ],
    ids=['gaps in rows', 'gaps in columns', 'one row', 'one column'],
)
def test_weights_reach_onednn_without_gaps(strided, monkeypatch):
    """It computes the others as well, but 1000 times slower."""
    operator, seen = torch.ops.mkldnn._linear_pointwise, []

    class Watched:
        def __call__(self, x, weight, *args):
            seen.append(weight)
            return operator(x, weight, *args)

        def binary(self, x, total, weight, *args):
            seen.append(weight)
            return operator.binary(x, total, weight, *args)

    monkeypatch.setattr(torch.ops.mkldnn, '_linear_pointwise', Watched())
    x, weight = torch.randn(11, 5), strided(torch.randn(7, 5))
    want = x.double() @ weight.double().t()
    total = torch.zeros(11, len(weight))
    add_linear(total, x, weight)
    for got in (linear(x, weight), total):
        assert_same(got.double(), want, TOLERANCE[torch.float32])
    assert len(seen) == 2
    assert all(w.is_contiguous() or w.t().is_contiguous() for w in seen)


@pytest.mark.parametrize('exact', [False, True])
@pytest.mark.parametrize('with_bias', [False, True])
def test_written_linear_layer(with_bias, exact, has_onednn):
    x, weight = torch.randn(11, 5), torch.randn(7, 5)
    bias, out = torch.randn(7) if with_bias else None, torch.empty(11, 7)
    names, _ = operators(lambda: linear_to(out, x, weight, bias, exact))
    want = x.double() @ weight.double().t() + (bias if with_bias else 0)
    assert_same(out.double(), want, TOLERANCE[torch.float32])
    assert ('mkldnn::_linear_pointwise' in names) == (has_onednn and not exact)


@pytest.mark.parametrize('sizes', [(30, 7, 3), (30, 3, 7), (4, 7, 3), (0, 3, 7)])
def test_products_over_tokens(sizes, has_onednn):
    tokens, rows, columns = sizes
    a, b = torch.randn(tokens, rows), torch.randn(tokens, columns)
    want = a.double().t() @ b.double()
    names, got = operators(lambda: outer(a, b))
    assert got.is_contiguous()
    assert_same(got.double(), want, TOLERANCE[torch.float32])
    assert ('mkldnn::_linear_pointwise' in names) == (has_onednn and tokens > 0)
    for dtype in (torch.float32, torch.float64):
        total = torch.ones(rows, columns, dtype=dtype)
        add_outer(total, a, b)
        assert total.dtype == dtype
        assert_same(total.double(), want + 1, TOLERANCE[torch.float32])


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('exact', [False, True])
def test_layers_and_their_gradients(exact, with_bias, has_onednn):
    layer, x = torch.nn.Linear(5, 7, bias=with_bias), torch.randn(2, 3, 5)
    x.requires_grad_()
    wanted = [x, *layer.parameters()]

    def run(function):
        out = function(x)
        return out, *torch.autograd.grad(out.sin().sum(), wanted)

    want = run(layer)
    names, got = operators(lambda: run(lambda x: apply_linear(layer, x, exact)))
    assert ('mkldnn::_linear_pointwise' in names) == has_onednn
    for ours, theirs in zip(got, want, strict=True):
        assert_same(ours, theirs, TOLERANCE[torch.float32])
    if exact:
        assert torch.equal(got[0], want[0])
    with torch.no_grad():
        names, got = operators(lambda: apply_linear(layer, x, exact))
    assert ('mkldnn::_linear_pointwise' in names) == (has_onednn and not exact)
    assert got.shape == (2, 3, 7)
    assert apply_linear(layer, x[:0]).shape == (0, 3, 7)
    frozen = dense(x.detach().flatten(0, 1), layer.weight, layer.bias, exact)
    (grad,) = torch.autograd.grad(frozen.sum(), layer.weight)
    assert_same(grad, x.detach().sum(dim=(0, 1)).expand(7, 5), 1e-5)


class Own(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_other_layers_are_called():
    x, layer = torch.randn(2, 3, 5), Own(5, 7)
    assert torch.equal(apply_linear(layer, x), layer(x))
    layer = torch.nn.Linear(5, 7).double()
    with pytest.raises(RuntimeError):  # as it would by itself
        apply_linear(layer, x)


def test_a_user_may_free_the_rounding():
    assert must_be_exact(has_linear_key=True)
    assert not must_be_exact(has_linear_key=False)
    torch.set_float32_matmul_precision('high')
    try:
        assert not must_be_exact(has_linear_key=True)
    finally:
        torch.set_float32_matmul_precision('highest')
    assert must_be_exact(has_linear_key=True)


@pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, 'matmul'), reason='since torch 2.9'
)
@pytest.mark.parametrize(
    ('backend', 'precision', 'exact'),
    [
        ('mkldnn', 'ieee', True),
        ('mkldnn', 'bf16', False),
        ('cuda', 'tf32', True),  # says nothing of a CPU
    ],
)
def test_the_new_switches_of_torch_are_read(backend, precision, exact, monkeypatch):
    """Where they are set, torch refuses to answer by the old one."""
    switch = getattr(torch.backends, backend).matmul
    monkeypatch.setattr(switch, 'fp32_precision', precision)
    assert must_be_exact(has_linear_key=True) == exact
    model, x = backbone('swin', None), torch.randn(1, 3, 64, 64)
    assert_same(model(x)[0], plain(model)(x)[0], 1e-6 if exact else 1e-2)


def backbone(family, key):
    if family == 'swin':
        arch = dict(embed_dims=16, depths=[2], num_heads=[2])
        options = dict(window_size=4, out_indices=(0,), pad_small_map=True)
        return ManifoldKeySwin(arch, key=key, **options)
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    window = dict(window_size=4) if key and key['type'] == 'SpatialK' else {}
    key = key and {**key, **window}
    return ManifoldKeyViT(arch, img_size=64, patch_size=8, key=key, out_type='featmap')


@needs_onednn
@pytest.mark.parametrize('family', ['swin', 'vit'])
@pytest.mark.parametrize('residual', [None, True, False])
def test_only_networks_without_linear_keys_round_otherwise(family, residual):
    """Gradients may in any; a residual key is a kind of linear key."""
    key = dict(type='SpatialK', num_charts=2, residual=residual)
    model = randomize(backbone(family, None if residual is None else key), 0.1).eval()
    x, ours = torch.randn(1, 3, 64, 64), residual is not False
    if residual:
        for attention in model.modules():
            if hasattr(attention, 'has_linear_key') and hasattr(attention, 'key'):
                attention.key.zero_last_layer()
    with torch.no_grad():
        names, got = operators(lambda: model(x)[0])
        want = plain(model)(x)[0]
    assert ('mkldnn::_linear_pointwise' in names) == (residual is not None)
    assert_same(got, want, 1e-6 if ours else TOLERANCE[torch.float32])
    learned, grads = gradients(lambda x: model(x)[0], x, model)
    expected, others = gradients(lambda x: plain(model)(x)[0], x, model)
    assert_same(learned, expected, 1e-6 if ours else TOLERANCE[torch.float32])
    assert grads.keys() == others.keys()
    for name, grad in others.items():
        assert_same(grads[name], grad, TOLERANCE[torch.float32])


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
