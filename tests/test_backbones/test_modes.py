"""The whole backbones under compilers, autocast and other modes of running."""

import copy
import pickle

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.peft.lora import LoRALinear
from oracles import STRATEGIES, TOLERANCE, assert_same, gradients, randomize
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT, ffn
from mmmanikey.backbones.ffn import PiecewiseFFN
from mmmanikey.keys import kernels
from mmmanikey.keys.kernels import common

SWIN = dict(
    arch=dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3]),
    window_size=4,
    out_indices=(0, 1),
    drop_path_rate=0.0,
    pad_small_map=True,
)
VIT = dict(
    arch=dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=24),
    img_size=64,
    patch_size=8,
    with_cls_token=False,
    out_type='featmap',
    window_size=4,
    global_attn_indexes=(1,),
    use_rel_pos=True,
)
KEYS = [None, *STRATEGIES]


def make(family, key, **kwargs):
    cfg = key and dict(type=key, num_charts=2)
    if family == 'vit':
        if key == 'SpatialK':
            cfg['window_size'] = 4
        return randomize(ManifoldKeyViT(**VIT, key=cfg, **kwargs))
    return randomize(ManifoldKeySwin(**SWIN, key=cfg, **kwargs))


def images():
    return torch.randn(2, 3, 72, 60)


@pytest.mark.slow
@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
@pytest.mark.parametrize('training', [False, True])
def test_compiles_without_a_graph_break(family, key, training):
    model = make(family, key).train(training)
    x = images()
    want = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    got = compiled(x)
    for ours, theirs in zip(got, want, strict=True):
        assert_same(ours, theirs, TOLERANCE[x.dtype])
    if training:
        sum(out.sum() for out in got).backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
def test_inductor_trains_swin_as_eager_mode_does():
    """With padding, shifts and masks; Inductor is what torch.compile uses."""
    settings = dict(SWIN, arch=dict(embed_dims=8, depths=[2], num_heads=[2]))
    settings.update(out_indices=(0,), key=dict(type='SpatialK', num_charts=2))
    model = randomize(ManifoldKeySwin(**settings)).train()
    compiled = copy.deepcopy(model)
    compiled.compile(fullgraph=True)
    x = torch.randn(2, 3, 36, 44)  # 9 x 11 tokens in windows of 4
    (want,), (got,) = model(x), compiled(x)
    assert_same(got, want, TOLERANCE[x.dtype])
    weights = torch.randn_like(want)
    (want * weights).sum().backward()
    (got * weights).sum().backward()
    for p, q in zip(model.parameters(), compiled.parameters(), strict=True):
        assert_same(q.grad, p.grad, TOLERANCE[x.dtype])


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_a_trace_computes_the_same(family, key):
    """What FLOP counters read: the plain forms, at the size that was traced."""
    model = make(family, key).eval()
    traced = torch.jit.trace(model, torch.zeros(2, 3, 72, 60), check_trace=False)
    x = images()
    for ours, theirs in zip(traced(x), model(x), strict=True):
        assert_same(ours, theirs, TOLERANCE[x.dtype])


@pytest.mark.parametrize('how', ['autocast', 'weights'])
@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_bfloat16_hands_on_float32_close_to_it(family, key, how):
    """The images' dtype is that of the outputs, for heads that know no bfloat16."""
    model, x = make(family, key), images()
    want = model(x)
    if how == 'weights':
        model.bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=how == 'autocast'):
        got = model(x)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == x.dtype
        assert not torch.equal(ours, theirs)
        assert_same(ours, theirs, 0.1)
    sum(out.square().sum() for out in got).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_inference_mode_copies_and_pickles(family, key):
    model, x = make(family, key).train(False), images()
    with torch.no_grad():  # with gradients torch attends in another order
        want = model(x)
    with torch.inference_mode():
        for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert all(torch.equal(a, b) for a, b in zip(other(x), want, strict=True))


@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_deterministic_mode_repeats_to_the_bit(family):
    model, x = make(family, 'SpatialK'), images()
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            torch.manual_seed(1)
            model.zero_grad()
            sum(out.square().sum() for out in model(x)).backward()
            runs.append([p.grad.clone() for p in model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


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
    monkeypatch.setitem(kernels.BUFFER_BYTES, 'cpu', buffer_bytes)
    monkeypatch.setattr(common, 'FEWEST_TOKENS', 1)
    stock = FFN(8, 16, **{'act_cfg': dict(type='GELU'), **kwargs})
    stock = randomize(stock).to(dtype)
    ours = PiecewiseFFN(copy.deepcopy(stock))
    x = torch.randn(2, 9, 8, dtype=dtype)
    assert ours.in_pieces(x) == in_pieces
    ours.load_state_dict(stock.state_dict(), strict=True)
    want, want_grads = gradients(lambda t: stock(t, t.flip(1)), x, stock)
    got, got_grads = gradients(lambda t: ours(t, t.flip(1)), x, ours)
    assert_same(got, want, TOLERANCE[x.dtype])
    assert_same(ours(x), stock(x), TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


def test_ffn_keeps_one_hidden_layer():
    """The stock one keeps what enters GELU and what leaves it."""
    stock = FFN(8, 16, act_cfg=dict(type='GELU'))
    ours = PiecewiseFFN(copy.deepcopy(stock))
    x = torch.randn(2, 9, 8, requires_grad=True)
    hidden = 2 * 9 * 16
    assert kept(ours, x).count(hidden) == 1
    assert kept(stock, x).count(hidden) == 2
    with torch.no_grad():
        assert kept(ours, x) == []


def kept(model, x):
    """Sizes of what a forward pass keeps for the backward pass."""
    sizes = []
    hooks = torch.autograd.graph.saved_tensors_hooks
    with hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        model(x)
    return sizes


def test_ffn_pieces_hold_enough_tokens(monkeypatch):
    monkeypatch.setattr(common, 'FEWEST_TOKENS', 7)
    monkeypatch.setitem(kernels.BUFFER_BYTES, 'cpu', 16 * 4)  # one token
    for count, lengths in ((18, [6, 6, 6]), (7, [7]), (8, [4, 4])):
        cuts, hidden = ffn.pieces_and_memory(torch.randn(count, 8), 16)
        assert [cut.stop - cut.start for cut in cuts] == lengths
        assert hidden.shape == (lengths[0], 16)
    monkeypatch.setitem(kernels.BUFFER_BYTES, 'cpu', 16 * 4 * 9)
    cuts, _ = ffn.pieces_and_memory(torch.randn(18, 8), 16)
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
    ours = PiecewiseFFN(stock)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    want, want_grads = gradients(stock, x, stock)
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
    ours = PiecewiseFFN(FFN(8, 16, act_cfg=dict(type='GELU')))
    x = torch.randn(2, 9, 8, requires_grad=True)
    calls = []
    for layer in (ours.layers[0][0], ours.layers[0][1], ours.layers[1]):
        assert ours.in_pieces(x)
        hook = getattr(layer, f'register_{register}')
        handle = hook(lambda module, *_: calls.append(module))
        ours(x).sum().backward()
        handle.remove()
        assert calls.pop() is layer
        assert not calls


def test_ffn_with_dropout_drops():
    """While training every hidden value is dropped: the second bias is left."""
    ours = PiecewiseFFN(FFN(8, 16, act_cfg=dict(type='GELU'), ffn_drop=1.0))
    x = torch.randn(2, 9, 8)
    assert torch.equal(ours(x), x)
    assert not torch.equal(ours.train(False)(x), x)
