"""Upgrading a stock backbone to manifold keys: exact pairs, and the fit."""

import copy

import numpy as np
import pytest
import torch
from oracles import STRATEGIES, assert_same

from mmmanikey.attention.slot import KeySlot
from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.forms.folding import folded_conv1
from mmmanikey.keys import ManifoldKey, VanillaK, build_key, with_residual
from mmmanikey.warmstart import (
    output_change,
    split_batches,
    upgrade_backbone,
)
from mmmanikey.warmstart.exact import odd_slope, write_linear_map
from mmmanikey.warmstart.fit import NormalEquations

SWIN = dict(
    arch=dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3]),
    window_size=4,
    pad_small_map=True,
    out_indices=(0, 1),
)
VIT = dict(
    arch=dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=24),
    img_size=64,
    patch_size=8,
)
VITDET = dict(
    VIT,
    with_cls_token=False,
    out_type='featmap',
    window_size=4,
    global_attn_indexes=(1,),
    use_rel_pos=True,
)
MODELS = {
    'swin': (ManifoldKeySwin, SWIN),
    'vit': (ManifoldKeyViT, VIT),
    'vitdet': (ManifoldKeyViT, VITDET),
    'vit without bias': (ManifoldKeyViT, dict(VIT, qkv_bias=False)),
}
EXACT, FITTED = ('VanillaK', 'KUA'), ('SimpleK', 'SpatialK')


def key_cfg(name, **kwargs):
    if name == 'SpatialK':
        kwargs['window_size'] = 4
    return dict(type=name, **kwargs)


def pair(model, key):
    """The stock network, as a residual one with zero manifolds, and an empty shell."""
    cls, settings = MODELS[model]
    stock = cls(**settings, key=with_residual(key, True)).double()
    for name, parameter in stock.named_parameters():
        if '.key.' not in name:
            torch.nn.init.normal_(parameter, mean='norm' in name, std=0.2)
    return stock.eval(), cls(**settings, key=key).double().eval()


def attention_outputs(model, x):
    """Output of every attention layer while the network runs."""
    seen = []
    hooks = [
        module.register_forward_hook(lambda *args: seen.append(args[-1]))
        for module in model.modules()
        if isinstance(module, KeySlot)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


def smooth_images(batches=8):
    """Batches of two images of low frequencies."""
    coarse = torch.randn(2 * batches, 3, 10, 10, dtype=torch.float64)
    images = torch.nn.functional.interpolate(coarse, size=(64, 64), mode='bicubic')
    return list(images.split(2))


WIDTHS = [(2, 1.0), (3, 1.0), (8, 0.25), (8, 1.0), (8, 2.0), (9, 0.3), (2, 1.5)]


@pytest.mark.parametrize(('num_charts', 'hidden_ratio'), WIDTHS)
@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('name', EXACT)
def test_exact_upgrade_is_the_stock_network(name, model, num_charts, hidden_ratio):
    """Sizes that fill no window or grid, so that padding and shift masks are met."""
    cfg = key_cfg(name, num_charts=num_charts, hidden_ratio=hidden_ratio)
    stock, upgraded = pair(model, cfg)
    weights, reports = upgrade_backbone(stock)
    upgraded.load_state_dict(weights, strict=True)
    x = torch.randn(2, 3, 72, 56, dtype=torch.float64)
    expected = attention_outputs(stock, x)
    for actual, want in zip(attention_outputs(upgraded, x), expected, strict=True):
        assert_same(actual, want, 1e-10)
    for actual, want in zip(upgraded(x), stock(x), strict=True):
        assert_same(actual, want, 1e-10)
    assert output_change(stock, upgraded, [x]) < 1e-10
    assert all(report.is_exact and report.error < 1e-10 for report in reports)
    # not by a network whose attention does nothing
    assert expected[0].std() > 1e-3


@pytest.mark.parametrize('activation', ['SiLU', 'ReLU', 'LeakyReLU', 'Hardswish', None])
def test_other_activations_that_serve(activation):
    key = VanillaK(12, num_charts=4, act_cfg=activation and dict(type=activation))
    weight = torch.randn(12, 12, dtype=torch.float64)
    write_linear_map(key.double(), weight)
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    assert_same(key(x), x @ weight.t(), 1e-10)


def test_gelu_by_tanh_serves():
    assert odd_slope(torch.nn.GELU(approximate='tanh')) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize('activation', ['Tanh', 'Mish', 'ELU', 'Sigmoid', 'Softsign'])
def test_other_activations_are_refused(activation):
    key = VanillaK(12, act_cfg=dict(type=activation))
    with pytest.raises(ValueError, match=rf'c a, such as GELU.* got {activation}'):
        write_linear_map(key, torch.eye(12))


@pytest.mark.parametrize(
    ('num_charts', 'hidden_ratio', 'got'), [(1, 8.0, 0), (8, 0.2, 8), (3, 0.5, 6)]
)
@pytest.mark.parametrize('name', EXACT)
def test_too_few_or_too_narrow_pairs(name, num_charts, hidden_ratio, got):
    key = build_key(key_cfg(name, num_charts=num_charts, hidden_ratio=hidden_ratio), 12)
    with pytest.raises(ValueError, match=f'takes 12 channels in pairs .* got {got};'):
        write_linear_map(key, torch.eye(12))


@pytest.mark.parametrize('name', EXACT)
def test_pre_activations_start_as_the_matched_start_has_them(name):
    key = build_key(key_cfg(name), 96)
    write_linear_map(key, 0.02 * torch.randn(96, 96))
    with torch.no_grad():
        hidden = torch.nn.functional.linear(torch.randn(500, 96), folded_conv1(key))
    assert_same(hidden.std(dim=0), torch.ones(768), 0.2)


def charts_of(key):
    """Each chart as one vector of its parameters."""
    parts = [key.scale, key.conv1.weight, key.conv1.bias]
    if hasattr(key, 'conv2'):
        parts.append(key.conv2.weight)
    return torch.cat([part.reshape(key.num_charts, -1) for part in parts], dim=1)


def least_distance(charts):
    """The least distance between two charts, relative to their mean size."""
    distances = torch.cdist(charts, charts).fill_diagonal_(float('inf'))
    return (distances.min() / charts.norm(dim=1).mean()).item()


@pytest.mark.parametrize('name', STRATEGIES)
def test_charts_are_no_copies_and_do_not_become_copies(name):
    """Neither at the start, nor in the direction they are pushed."""
    stock, upgraded = pair('swin', key_cfg(name, num_charts=4))
    images = smooth_images(2)
    weights, _ = upgrade_backbone(stock, images)
    upgraded.load_state_dict(weights)
    key = upgraded.stages[0].blocks[0].attn.w_msa.key
    start = charts_of(key).detach()
    assert least_distance(start) > 0.3
    sum(out.sin().sum() for out in upgraded(images[0])).backward()
    with torch.no_grad():
        for parameter in key.parameters():
            parameter -= parameter.grad / parameter.grad.norm().clamp(min=1e-12)
    moves = charts_of(key).detach() - start
    assert moves.norm(dim=1).min() > 1e-3
    assert least_distance(moves) > 0.05
    assert least_distance(start + moves) > 0.3


@pytest.mark.parametrize(
    ('cfg', 'still'),
    [
        (key_cfg('VanillaK', num_charts=4), ()),
        (key_cfg('VanillaK', num_charts=8, hidden_ratio=0.25), ()),
        (key_cfg('KUA', num_charts=4), ()),
        # uniform memberships hide this bias
        (key_cfg('KUA', num_charts=8, hidden_ratio=0.25), ('conv2.bias',)),
        (key_cfg('KUA', num_charts=3), ('conv2.bias',)),
        (key_cfg('SimpleK', num_charts=4), ()),
        (key_cfg('SpatialK', num_charts=4), ()),
    ],
    ids=str,
)
@pytest.mark.parametrize('model', ['swin', 'vit'])
def test_every_parameter_gets_a_gradient(cfg, still, model):
    stock, upgraded = pair(model, cfg)
    images = smooth_images(2)
    upgraded.load_state_dict(upgrade_backbone(stock, images)[0])
    out = upgraded(images[0])[-1]
    (out * torch.randn_like(out)).sum().backward()
    gradients = {n: p.grad for n, p in upgraded.named_parameters() if '.key.' in n}
    for name, gradient in gradients.items():
        if name.endswith(tuple(f'.key.{part}' for part in still)):
            assert gradient.abs().max() < 1e-12, name
        else:
            assert gradient.abs().max() > 1e-9, name


def test_the_chart_left_over_by_an_odd_number_is_silent():
    key = VanillaK(12, num_charts=3)
    write_linear_map(key, torch.randn(12, 12))
    assert not key.conv2.weight[24:].any()
    assert key.conv1.weight[24:].any()


@pytest.mark.parametrize('name', STRATEGIES)
def test_the_seed_decides_and_torchs_generator_is_left_alone(name):
    stock, _ = pair('vit', key_cfg(name, num_charts=4))
    images = smooth_images(2)
    state = torch.get_rng_state()
    first, again, other = (
        upgrade_backbone(copy.deepcopy(stock), images, seed)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(
        first['layers.0.attn.key.conv1.weight'], other['layers.0.attn.key.conv1.weight']
    )


def test_layers_without_a_manifold_stay_as_they_are():
    stock, upgraded = pair('swin', [None, key_cfg('VanillaK')])
    weights, reports = upgrade_backbone(stock)
    upgraded.load_state_dict(weights, strict=True)
    assert [report.layer for report in reports] == [
        f'stages.1.blocks.{block}.attn.w_msa' for block in (0, 1)
    ]
    name = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
    assert torch.equal(weights[name], stock.state_dict()[name])


def test_normal_equations_are_numpys_least_squares():
    """On groups of an own mean each, which the fit must not see."""
    features = torch.randn(6, 10, 5, dtype=torch.float64)
    targets = features @ torch.randn(5, 3, dtype=torch.float64)
    targets += 0.5 * torch.randn_like(targets)
    equations = NormalEquations(5, 3)
    for part in (slice(0, 2), slice(2, 6)):
        shift = 30 * torch.randn(len(features[part]), 1, 1, dtype=torch.float64)
        equations.add(features[part] + shift, targets[part] - shift)
    centred = [
        (part - part.mean(dim=1, keepdim=True)).flatten(0, 1).numpy()
        for part in (features, targets)
    ]
    expected, *_ = np.linalg.lstsq(*centred, rcond=None)
    weight = equations.solve()
    assert_same(weight, torch.from_numpy(expected).t(), 1e-6)
    residual = np.linalg.norm(centred[0] @ expected - centred[1])
    error = residual / np.linalg.norm(centred[1])
    assert equations.relative_error(weight) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize('model', ['swin', 'vit', 'vitdet'])
@pytest.mark.parametrize('name', FITTED)
def test_the_fit_comes_close_to_the_stock_network(name, model):
    """Against keys at their matched start with everything else taken over."""
    stock, upgraded = pair(model, key_cfg(name))
    _, start = pair(model, key_cfg(name))
    images = smooth_images()
    weights, reports = upgrade_backbone(stock, images)
    upgraded.load_state_dict(weights, strict=True)
    start.load_state_dict(
        {n: v for n, v in weights.items() if '.key.' not in n}, strict=False
    )
    _, held_out = split_batches(images)
    assert not any(report.is_exact for report in reports)
    assert max(report.error for report in reports) < 0.25
    fitted = output_change(stock, upgraded, held_out)
    assert 0 < fitted < 0.2 * output_change(stock, start, held_out)


@pytest.mark.parametrize('name', FITTED)
def test_reported_errors_are_those_of_the_keys_on_held_out_tokens(name):
    stock, upgraded = pair('swin', key_cfg(name))
    images = smooth_images()
    weights, reports = upgrade_backbone(stock, images)
    upgraded.load_state_dict(weights)
    for report in reports:
        layer, ours = (m.get_submodule(report.layer) for m in (stock, upgraded))
        seen = []
        hook = layer.register_forward_pre_hook(
            lambda layer, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            for batch in split_batches(images)[1]:
                stock(batch)
        hook.remove()
        difference = total = 0
        for x in seen:
            with torch.no_grad():
                expected, actual = layer.qkv(x).chunk(3, dim=-1)[1], ours.key(x)
            expected, actual = (k - k.mean(1, keepdim=True) for k in (expected, actual))
            difference += (actual - expected).square().sum()
            total += expected.square().sum()
        assert report.error == pytest.approx(float(difference / total) ** 0.5, rel=1e-6)


@pytest.mark.parametrize('factor', [0.05, 20.0])
@pytest.mark.parametrize('name', FITTED)
def test_the_fit_does_not_depend_on_the_size_of_the_tokens(name, factor):
    """Norms of trained networks are not one; the charts' scale makes up for them."""
    errors = []
    for gain in (1.0, factor):
        torch.manual_seed(0)
        stock, _ = pair('vit', key_cfg(name))
        with torch.no_grad():
            for layer in stock.layers:
                layer.ln1.weight *= gain
                layer.ln1.bias *= gain
                layer.attn.qkv.weight /= gain
        reports = upgrade_backbone(stock, smooth_images())[1]
        errors.append([report.error for report in reports])
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


@pytest.mark.parametrize('name', ['VanillaK', 'SpatialK'])
def test_the_stock_network_stays_the_stock_network(name):
    stock, _ = pair('swin', key_cfg(name))
    images = smooth_images(2)
    before = stock(images[0])
    upgrade_backbone(stock, images)
    for actual, expected in zip(stock(images[0]), before, strict=True):
        assert torch.equal(actual, expected)
    assert not any(module._forward_pre_hooks for module in stock.modules())


def test_progress_is_tracked_over_all_batches():
    stock, _ = pair('vit', key_cfg('SimpleK'))
    tracked = []
    upgrade_backbone(
        stock, smooth_images(8), track=lambda b: tracked.append(len(b)) or b
    )
    assert tracked == [6, 2]


@pytest.mark.parametrize('name', FITTED)
def test_a_fit_needs_images(name):
    stock, _ = pair('vit', key_cfg(name))
    with pytest.raises(ValueError, match=f'{name} is fitted .* needs images'):
        upgrade_backbone(stock)


def test_backbones_that_cannot_be_upgraded():
    _, shell = pair('vit', key_cfg('VanillaK'))
    with pytest.raises(ValueError, match=r'layers\.0\.attn has no stock key'):
        upgrade_backbone(shell)
    stock, _ = pair('vit', None)
    with pytest.raises(ValueError, match='no manifold key to upgrade to'):
        upgrade_backbone(stock)


class OtherK(ManifoldKey):
    """A strategy of somebody else."""

    def charts(self, x, hw_shape=None):
        return self.expand(x)

    def fuse(self, z, x):
        return z.mean(dim=1)

    def reset_parameters(self):
        torch.nn.init.ones_(self.scale)

    def zero_last_layer(self):
        torch.nn.init.zeros_(self.scale)


def test_an_unknown_strategy_is_refused():
    stock, _ = pair('vit', dict(type=OtherK))
    with pytest.raises(ValueError, match='cannot upgrade to OtherK, only to VanillaK'):
        upgrade_backbone(stock)


@pytest.mark.parametrize(
    ('batches', 'fitted', 'held_out'),
    [(1, [0], [0]), (2, [0], [1]), (8, [0, 1, 2, 3, 4, 5], [6, 7])],
)
def test_a_quarter_of_the_batches_is_held_out(batches, fitted, held_out):
    images = torch.arange(batches)[:, None]
    fit, held = split_batches(list(images))
    assert torch.equal(torch.cat(fit), torch.tensor(fitted))
    assert torch.equal(torch.cat(held), torch.tensor(held_out))
