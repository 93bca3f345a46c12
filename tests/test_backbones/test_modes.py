"""The whole backbones under compilers, autocast and other modes of running."""

import copy
import pickle

import pytest
import torch
from oracles import (
    CHANNEL_STRATEGIES,
    STRATEGIES,
    TOLERANCE,
    assert_same,
    randomize,
)
from torch._dynamo.testing import CompileCounterWithBackend

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

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


def mixed(family):
    """Every key in one network, SpatialK in all kinds of windows."""
    names = 'SpatialK', *CHANNEL_STRATEGIES
    keys = [*(dict(type=name, num_charts=2) for name in names), None]
    if family == 'swin':
        arch = dict(embed_dims=4, depths=[2, 1, 1, 1, 1], num_heads=[2] * 5)
        settings = dict(SWIN, arch=arch, out_indices=range(5))
        return randomize(ManifoldKeySwin(**settings, key=keys))
    keys[0]['window_size'] = 4
    settings = dict(VIT, arch=dict(VIT['arch'], num_layers=6), out_indices=range(6))
    settings['global_attn_indexes'] = (1, 3, 5)
    return randomize(ManifoldKeyViT(**settings, key=[*keys, keys[0]]))


def images():
    return torch.randn(2, 3, 72, 60)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['swin', 'vit'])
@pytest.mark.parametrize('training', [False, True])
def test_compiles_without_a_graph_break(family, training):
    model = mixed(family).train(training)
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
def test_one_graph_serves_every_height_and_width_in_training():
    """What is compiled for symbols is not compiled again for another size."""
    settings = dict(SWIN, arch=dict(embed_dims=8, depths=[2], num_heads=[2]))
    settings.update(out_indices=(0,), key=dict(type='SpatialK', num_charts=2))
    model = randomize(ManifoldKeySwin(**settings)).train()
    torch._dynamo.reset()
    backend = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    graphs = set()
    for size in ((36, 44), (52, 60), (44, 76)):
        x = torch.randn(2, 3, *size)
        results = []
        for run in (model, compiled):
            model.zero_grad()
            (out,) = run(x)
            out.square().sum().backward()
            results.append([out, *(p.grad.clone() for p in model.parameters())])
        for want, got in zip(*results, strict=True):
            assert_same(got, want, TOLERANCE[x.dtype])
        graphs.add(backend.frame_count)
    assert len(graphs) == 1


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
