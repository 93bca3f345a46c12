"""Whoever hooks or changes a module inside a backbone sees the stock network.

Without a key each case is compared with mmpretrain's own class, with a key with the
plain formula. A form that ran where it may not would show in every one of them.
"""

import copy

import pytest
import torch
from mmpretrain.models.peft.lora import LoRALinear
from oracles import STRATEGIES, TOLERANCE, assert_same, plain, randomize
from stock_pairs import FAMILIES, KEYS, assert_equal_outputs, energy, images, make
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune

from mmmanikey.attention.swin import ManifoldKeyWindowMSA

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


def doubled(function):
    return lambda *args: 2 * function(*args)


#: Of the same class as before, and not as the key's class makes them.
OTHER_LAYERS = {
    'SimpleK.out': lambda key: nn.Linear(key.hidden_dims, key.out_dims),
    'VanillaK.conv2': lambda key: nn.Conv1d(
        2 * key.hidden_dims, 2 * key.out_dims, 1, groups=2
    ),
    'KUA.conv1': lambda key: nn.Conv1d(
        2 * key.embed_dims, 2 * key.hidden_dims, 3, padding=1, groups=2
    ),
    'VanillaK.conv1': lambda key: nn.Conv1d(2 * key.embed_dims, 2 * key.hidden_dims, 1),
    'SimpleK.conv1': lambda key: nn.Conv1d(
        2 * key.embed_dims, 2 * key.hidden_dims, 1, groups=2, bias=False
    ),
    'SpatialK.conv1': lambda key: nn.Conv1d(32, 32, 1, groups=2, bias=False),
    # methods of one key, and of one attention
    'SpatialK.expand': lambda key: doubled(key.expand),
    'KUA.memberships': lambda key: doubled(key.memberships),
}


@pytest.mark.parametrize('place', OTHER_LAYERS)
def test_parts_of_a_key_that_are_others(place):
    strategy, _, part = place.partition('.')
    ours, _ = make('swin', strategy)
    key = ours.stages[0].blocks[0].attn.w_msa.key
    made, x = OTHER_LAYERS[place](key), images('swin')
    before = ours(x)
    setattr(key, part, made.double() if isinstance(made, nn.Module) else made)
    outs = ours(x)
    assert_equal_outputs(outs, plain(ours)(x))
    assert not torch.equal(outs[0], before[0])


@pytest.mark.parametrize(
    ('part', 'make_other'),
    [
        ('softmax', lambda msa: nn.Softmax(dim=-2)),
        ('position_bias', lambda msa: doubled(msa.position_bias)),
    ],
)
def test_parts_of_an_attention_that_are_others(part, make_other):
    ours, _ = make('swin', None)
    x = images('swin')
    before, msa = ours(x), ours.stages[0].blocks[0].attn.w_msa
    setattr(msa, part, make_other(msa))
    outs = ours(x)
    assert_equal_outputs(outs, plain(ours)(x))
    assert not torch.equal(outs[0], before[0])


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ('key', 'layer'),
    [
        ('SpatialK', 'attn.w_msa.key.conv1'),
        ('SpatialK', 'attn.w_msa.key.out'),
        ('VanillaK', 'attn.w_msa.key.conv1'),
        ('KUA', 'attn.w_msa.key.conv2'),
        ('SimpleK', 'attn.w_msa.key.out'),
        ('KUA', 'attn.w_msa.qv'),
        (None, 'attn.w_msa.qkv'),
        (None, 'ffn.layers.1'),
    ],
)
def test_weights_of_two_dtypes_are_refused_as_by_plain_code(key, layer, dtype):
    ours, _ = make('swin', key, torch.float32)
    layer = ours.stages[0].blocks[0].get_submodule(layer)
    layer.weight.data = layer.weight.to(dtype)
    for model in (plain(ours), ours):
        with pytest.raises(RuntimeError, match=r'dtype|type'):
            model(images('swin', torch.float32))


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


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', FAMILIES)
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


@pytest.mark.parametrize(
    ('owner', 'name'),
    [
        (nn.functional, 'linear'),
        (nn.functional, 'gelu'),
        (nn.Linear, 'forward'),
        (nn.GELU, 'forward'),
        (nn.Softmax, 'forward'),
        (ManifoldKeyWindowMSA, 'forward'),
    ],
)
def test_functions_and_layers_of_torch_that_were_replaced(owner, name, monkeypatch):
    """As DeepSpeed's counter of FLOPs does, and adapters before peft did."""
    ours, _ = make('swin', 'SpatialK', torch.float32)
    x, calls, stock = images('swin', torch.float32), [], getattr(owner, name)

    def replaced(*args, **kwargs):
        calls.append(name)
        return stock(*args, **kwargs)

    monkeypatch.setattr(owner, name, replaced)
    counts = []
    for model in (plain(ours), ours):
        calls.clear()
        model(x)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0
