"""Whoever differentiates or traces a backbone, or runs it in other dtypes, sees the
stock network.

Without a key each case is compared with mmpretrain's own class, with a key with the
plain formula. A form that ran where it may not would show in every one of them.
"""

import pytest
import torch
from oracles import TOLERANCE, assert_same, plain, randomize
from replicas import replica_of
from stock_pairs import FAMILIES, KEYS, assert_equal_outputs, energy, images, make
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

cases = pytest.mark.parametrize(
    ('family', 'key'), [(family, key) for family in FAMILIES for key in KEYS]
)


@pytest.fixture
def twice_differentiable():
    """mmpretrain's ViT has no second derivative in PyTorch's other attentions."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@cases
@pytest.mark.usefixtures('twice_differentiable')
def test_second_derivatives(family, key):
    ours, reference = make(family, key)
    x = images(family).requires_grad_()
    results = []
    for model in (ours, reference):
        (grad,) = torch.autograd.grad(energy(model(x)), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        results.append((grad.detach(), second))
    assert_equal_outputs(*results)


@cases
@pytest.mark.usefixtures('twice_differentiable')
def test_second_derivatives_by_weights(family, key):
    ours, _ = make(family, key)
    x = images(family)
    results = []
    for run in (ours, plain(ours)):
        parameters = list(ours.parameters())
        grads = torch.autograd.grad(
            energy(run(x)), parameters, create_graph=True, allow_unused=True
        )
        total = sum(grad.square().sum() for grad in grads if grad is not None)
        seconds = torch.autograd.grad(total, parameters, allow_unused=True)
        results.append([s for s in seconds if s is not None])
    assert len(results[0]) > 20
    for got, want in zip(*results, strict=True):
        scale = want.abs().max().clamp(min=1e-8)
        assert_same(got / scale, want / scale, 1e-7)


@cases
def test_replicas_of_data_parallel(family, key):
    ours, reference = make(family, key)
    x, weights = images(family), list(ours.parameters())
    outs = replica_of(ours)(x)
    assert_equal_outputs(outs, reference(x))
    results = [
        torch.autograd.grad(energy(each), weights, allow_unused=True)
        for each in (outs, plain(ours)(x))
    ]
    found, expected = ([g for g in grads if g is not None] for grads in results)
    assert len(found) > 20
    assert_equal_outputs(found, expected)


def batched(out, x, grads):
    """As ``functional.jacobian(vectorize=True)`` asks for them."""
    return torch.autograd.grad(out, x, grads, is_grads_batched=True)


def mapped(out, x, grads):
    """As the documentation of ``vmap`` does."""
    return torch.func.vmap(lambda grad: torch.autograd.grad(out, x, grad))(grads)


@cases
@pytest.mark.parametrize('ask', [batched, mapped])
@pytest.mark.usefixtures('twice_differentiable')
def test_many_gradients_at_once(family, key, ask):
    ours, reference = make(family, key)
    x = images(family).requires_grad_()
    results = []
    for model in (ours, reference):
        out = model(x)[-1]
        grads = torch.randn(3, *out.shape, generator=torch.Generator().manual_seed(0))
        results.append(ask(out, x, grads.to(out.dtype)))
    assert results[1][0].any()
    assert_equal_outputs(*results)


@pytest.mark.parametrize('family', FAMILIES)
def test_dropout_alone_may_train(family):
    """As in Monte Carlo dropout: a network in eval mode, its dropout in train mode."""
    cls, stock, settings = FAMILIES[family]
    if family == 'swin':
        blocks = dict(attn_cfgs=dict(attn_drop=0.3), ffn_cfgs=dict(ffn_drop=0.3))
        settings = {**settings, 'stage_cfgs': dict(block_cfgs=blocks)}
    else:
        settings = {**settings, 'drop_rate': 0.3}
    ours = randomize(cls(**settings)).double()
    reference = stock(**settings).double()
    reference.load_state_dict(ours.state_dict())
    x, results = images(family), []
    for model in (ours, reference):
        model.train(False)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.train()
        torch.manual_seed(1)
        results.append(model(x))
    assert_equal_outputs(*results)
    assert not torch.equal(ours(x)[-1], results[0][-1])  # it drops


@cases
def test_gradients_enabled_within_inference_mode(family, key):
    """As by code of one's own in a model that another one evaluates."""
    ours, reference = make(family, key)
    with torch.inference_mode(), torch.enable_grad():
        x = images(family)
        assert_equal_outputs(ours(x), reference(x))


def test_hessian_vector_product():
    ours, reference = make('swin', 'KUA')
    x, v = images('swin'), images('swin')
    results = [
        torch.autograd.functional.hvp(lambda x, m=model: energy(m(x)), x, v)[1]
        for model in (ours, reference)
    ]
    assert results[1].abs().max() > 1e-6
    scale = results[1].abs().max()
    assert_same(results[0] / scale, results[1] / scale, 1e-8)


@cases
def test_transforms_of_torch_func(family, key):
    ours, reference = make(family, key)
    x = images(family)

    def loss(model, image):
        return energy(model(image[None]))

    for transform in (
        lambda f: torch.func.grad(lambda x: f(x[0]))(x),
        lambda f: torch.func.vmap(torch.func.grad(f))(x),
        lambda f: torch.func.vmap(f)(x),
    ):
        got, want = (transform(lambda x, m=m: loss(m, x)) for m in (ours, reference))
        assert want.abs().max() > 0
        assert_same(got, want, TOLERANCE[x.dtype])


@pytest.mark.parametrize('key', KEYS)
def test_forward_mode(key):
    """Swin alone: PyTorch's fused attention of ViT has no forward-mode derivative."""
    ours, reference = make('swin', key)
    x, v = images('swin'), images('swin')
    got, want = (
        torch.func.jvp(lambda x, m=m: energy(m(x)), (x,), (v,))
        for m in (ours, reference)
    )
    assert_equal_outputs(got, want)


@cases
def test_fake_tensors_and_traces_leave_nothing_behind(family, key):
    ours, reference = make(family, key)
    x = images(family)
    weights = ours.state_dict()
    with FakeTensorMode() as mode:
        fakes = {n: mode.from_tensor(t) for n, t in weights.items()}
        torch.func.functional_call(ours, fakes, (mode.from_tensor(x),))
    make_fx(lambda x: ours(x))(x)
    assert_equal_outputs(ours(x), reference(x))


def save_products(ctx, op, *args, **kwargs):
    products = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
    saved = op in (*products, torch.ops.aten.bmm.default)
    policy = CheckpointPolicy
    return policy.MUST_SAVE if saved else policy.PREFER_RECOMPUTE


@cases
def test_selective_checkpointing(family, key):
    ours, reference = make(family, key)
    x = images(family)

    def contexts():
        return create_selective_checkpoint_contexts(save_products)

    results = []
    for model in (ours, reference):
        leaf = x.clone().requires_grad_()
        outs = checkpoint(model, leaf, use_reentrant=False, context_fn=contexts)
        energy(outs).backward()
        results.append([leaf.grad])
    assert_equal_outputs(*results)


@cases
def test_backward_within_autocast(family, key):
    ours, reference = make(family, key, torch.float32)
    x = images(family, torch.float32)
    results = []
    for model in (ours, reference):
        leaf = x.clone().requires_grad_()
        loss = energy(model(leaf))
        with torch.autocast('cpu', torch.bfloat16):
            loss.backward()
        results.append([leaf.grad])
    assert_equal_outputs(*results, 1e-2)


@cases
def test_double_precision_within_autocast(family, key):
    """Autocast leaves float64 as it is; other dtypes than these two would clash."""
    ours, reference = make(family, key)
    x = images(family)
    with torch.autocast('cpu', torch.bfloat16):
        assert_equal_outputs(ours(x), reference(x))


@cases
def test_bfloat16_rounds_as_the_plain_code(family, key):
    ours, reference = make(family, key, torch.float32)
    x = images(family, torch.float32)
    errors = []
    exact = gradient(ours, x)
    for run in (ours.bfloat16(), plain(ours)):
        error = gradient(run, x.bfloat16()).float() - exact
        errors.append(error.abs().max() / exact.abs().max())
    assert errors[0] <= errors[1] * 1.5 + 1e-3
    assert errors[0] < 0.1


def gradient(run, x):
    leaf = x.clone().requires_grad_()
    energy(run(leaf)).backward()
    return leaf.grad


@pytest.mark.parametrize('key', KEYS)
def test_float16_with_large_weights(key):
    """Logits are scaled before the product, or they would overflow."""
    ours, _ = make('swin', key, torch.float32)
    layer = ours.stages[0].blocks[0].attn.w_msa
    with torch.no_grad():
        layer.scale = 1e-3
        for part in (layer.qkv if key is None else layer.qv, layer.key):
            for parameter in part.parameters() if part else ():
                parameter.mul_(100 if part is not layer.key else 10)
    x = images('swin', torch.float32)
    with torch.no_grad():
        query, keys, _ = layer.project(torch.randn(4, 16, 12))
        assert (query @ keys.transpose(2, 3)).abs().max() > 65504
    assert all(out.isfinite().all() for out in ours.half()(x.half()))
