"""Whoever looks or reaches inside sees the stock network.

Without a key each case is compared with mmpretrain's own class, with a key with the
plain formula. A form that ran where it may not would show in every one of them.
"""

import copy

import pytest
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from mmpretrain.models.peft.lora import LoRALinear
from oracles import STRATEGIES, TOLERANCE, assert_same, plain, randomize
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

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
    out_type='raw',
)
FAMILIES = dict(
    swin=(ManifoldKeySwin, SwinTransformer, SWIN),
    vit=(ManifoldKeyViT, VisionTransformer, VIT),
)
KEYS = [None, *STRATEGIES]
cases = pytest.mark.parametrize(
    ('family', 'key'), [(family, key) for family in FAMILIES for key in KEYS]
)


def make(family, key, dtype=torch.float64):
    """A backbone and what it must equal: mmpretrain's, or its own plain code."""
    cls, stock, settings = FAMILIES[family]
    cfg = key and dict(type=key, num_charts=2)
    if key == 'SpatialK' and family == 'vit':
        cfg['window_size'] = 4
    ours = randomize(cls(**settings, key=cfg)).to(dtype)
    ours.train(False)
    if key is not None:
        return ours, plain(copy.deepcopy(ours))
    reference = stock(**settings).to(dtype)
    reference.load_state_dict(ours.state_dict())
    reference.train(False)
    return ours, reference


def images(family, dtype=torch.float64):
    """Of a size that pads windows and shifts them."""
    size = (36, 44) if family == 'swin' else (64, 64)
    return torch.randn(2, 3, *size, dtype=dtype)


def energy(outs):
    return sum(out.square().mean() for out in outs)


def assert_equal_outputs(got, want, tolerance=TOLERANCE[torch.float64]):
    for ours, theirs in zip(got, want, strict=True):
        assert_same(ours, theirs, tolerance)


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


PLACES = dict(
    swin=[
        'stages.0',
        'stages.0.blocks.1',
        'stages.0.blocks.1.attn',
        'stages.0.blocks.1.attn.w_msa',
        'stages.0.blocks.1.attn.w_msa.qkv',
        'stages.0.blocks.1.attn.w_msa.softmax',
        'stages.0.blocks.1.attn.w_msa.attn_drop',
        'stages.0.blocks.1.attn.w_msa.proj',
        'stages.0.blocks.1.ffn',
        'stages.0.blocks.1.ffn.layers',
        'stages.0.blocks.1.ffn.layers.0',
        'stages.0.blocks.1.ffn.layers.0.0',
        'stages.0.blocks.1.ffn.layers.0.1',
        'stages.0.blocks.1.ffn.layers.1',
        'stages.0.downsample',
        'stages.0.downsample.sampler',
    ],
    vit=[
        'layers.1',
        'layers.1.ln1',
        'layers.1.attn',
        'layers.1.attn.qkv',
        'layers.1.attn.proj',
        'layers.1.ffn',
        'layers.1.ffn.layers',
        'layers.1.ffn.layers.0',
        'layers.1.ffn.layers.0.1',
    ],
)


@pytest.mark.parametrize(
    ('family', 'place'), [(f, place) for f in PLACES for place in PLACES[f]]
)
def test_hooks_see_what_they_see_in_the_stock_network(family, place):
    ours, reference = make(family, None)
    x = images(family)
    results = []
    for model in (ours, reference):
        seen = []
        hook = model.get_submodule(place).register_forward_hook(
            lambda module, args, out, seen=seen: seen.append(first(out))
        )
        outs = model(x)
        hook.remove()
        results.append([*seen, *outs])
    assert len(results[0]) > len(outs)
    assert_equal_outputs(*results)


def first(out):
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize('family', FAMILIES)
def test_hooks_change_the_output(family):
    """As an ablation does: what a hook returns is used."""
    for place in PLACES[family]:
        ours, _ = make(family, None)
        x = images(family)
        before = energy(ours(x))
        ours.get_submodule(place).register_forward_hook(
            lambda module, args, out: (
                (out[0].sin(), *out[1:]) if isinstance(out, tuple) else out.sin()
            )
        )
        assert not torch.isclose(energy(ours(x)), before), place


def test_gradients_of_a_vit_layer():
    """What Grad-CAM takes: activations of a layer and their gradients."""
    ours, reference = make('vit', None)
    x = images('vit')
    results = []
    for model in (ours, reference):
        kept = []
        model.layers[0].register_forward_hook(
            lambda module, args, out, kept=kept: kept.append(out)
        )
        loss = energy(model(x))
        results.append(torch.autograd.grad(loss, kept))
    assert_equal_outputs(*results)


@pytest.mark.parametrize('family', FAMILIES)
def test_global_hooks(family):
    """Counters that hook every module see the modules of the stock network."""
    ours, reference = make(family, None)
    x = images(family)
    counts = []
    for model in (ours, reference):
        names = {module: name for name, module in model.named_modules()}
        calls = []
        hook = register_module_forward_hook(
            lambda module, args, out, calls=calls, names=names: calls.append(
                names.get(module)
            )
        )
        model(x)
        hook.remove()
        counts.append(calls)
    assert counts[0] == counts[1]


@pytest.mark.parametrize('key', STRATEGIES)
def test_counters_by_hooks_count_the_charts(key):
    """ptflops, thop and torchinfo hook layers and multiply their sizes."""
    ours, _ = make('swin', key)
    stock, _ = make('swin', None)
    assert hooked_macs(ours) > hooked_macs(stock)


def hooked_macs(model):
    macs = []

    def count(layer, args, out):
        macs.append(layer.weight[0].numel() * out.numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d)):
            layer.register_forward_hook(count)
    model(images('swin'))
    return sum(macs)


CHANGES = dict(
    prune=lambda layer: prune.random_unstructured(layer, 'weight', 0.5),
    weight_norm=nn.utils.weight_norm,
    parametrized=nn.utils.parametrizations.weight_norm,
    spectral_norm=nn.utils.parametrizations.spectral_norm,
    hooked=lambda layer: layer.register_forward_hook(lambda *call: 0.5 * call[2]),
    pre_hooked=lambda layer: layer.register_forward_pre_hook(
        lambda layer, args: (0.5 * args[0],)
    ),
    forward=lambda layer: setattr(layer, 'forward', layer_forward(layer)),
)


def layer_forward(layer):
    return lambda x: 0.5 * type(layer).forward(layer, x)


LAYERS = dict(
    VanillaK=['conv1', 'conv2'],
    SimpleK=['conv1', 'out'],
    KUA=['conv1', 'conv2', 'membership'],
    SpatialK=['conv1', 'out'],
)


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize(
    ('key', 'layer'), [(key, layer) for key in LAYERS for layer in LAYERS[key]]
)
def test_layers_of_a_key_can_be_changed(key, layer, change):
    """Two steps: the second would fail on a graph that was kept from the first."""
    ours, _ = make('swin', key)
    module = ours.stages[0].blocks[0].attn.w_msa.key
    layer = getattr(module, layer)
    x = images('swin')
    with torch.no_grad():
        before = ours(x)
    CHANGES[change](layer)
    reference = plain(ours)
    for _ in range(2):
        got, want = energy(ours(x)), energy(reference(x))
        with torch.no_grad():
            changes = [(a - b).abs().max() for a, b in zip(ours(x), before)]
        assert (max(changes) > 1e-5) == (change not in ('weight_norm', 'parametrized'))
        assert_same(got.detach(), want.detach(), TOLERANCE[x.dtype])
        ours.zero_grad()
        got.backward()
        assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize('family', FAMILIES)
def test_adapters_on_linear_layers(family):
    """mmpretrain's LoRA on every linear layer: each adapter works and learns."""
    ours, _ = make(family, 'SpatialK')
    for module in list(ours.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(module, name, LoRALinear(layer, alpha=4, rank=2))
    randomize(ours.double())
    x = images(family)
    assert_equal_outputs(ours(x), plain(ours)(x))
    energy(ours(x)).backward()
    adapters = [p for n, p in ours.named_parameters() if 'lora_' in n]
    assert len(adapters) > 10
    assert all(p.grad is not None and p.grad.any() for p in adapters)


class Halved(torch.Tensor):
    """A weight of a class of its own, as quantised ones are."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, weight, *bias = args
            return func(x, 0.5 * weight.as_subclass(torch.Tensor), *bias)
        return super().__torch_function__(func, types, args, kwargs)


@cases
def test_weights_of_a_class_of_their_own(family, key):
    """The class says what a product with them is."""
    ours, reference = make(family, key)
    halved, by_hand = copy.deepcopy(ours), copy.deepcopy(ours)
    for model in (halved, by_hand):
        for module in model.modules():
            if isinstance(module, nn.Linear):
                weight = module.weight.detach()
                value = weight.as_subclass(Halved) if model is halved else weight / 2
                module.weight = nn.Parameter(value, requires_grad=False)
    x = images(family)
    assert_equal_outputs(halved(x), by_hand(x))


def test_a_bias_free_layer_in_the_feed_forward_network():
    ours, _ = make('swin', None)
    layers = ours.stages[0].blocks[0].ffn.layers[0]
    layers[0] = nn.Linear(12, 48, bias=False).double()
    x = images('swin')
    assert_equal_outputs(ours(x), plain(ours)(x))
