"""ManifoldKeyViT against mmpretrain's ViT, and what it adds for dense prediction."""

import copy

import pytest
import torch
from mmpretrain.models import VisionTransformer
from mmpretrain.models.backbones.vit_sam import add_decomposed_rel_pos
from mmpretrain.models.utils import MultiheadAttention
from oracles import (
    STOCK_TOLERANCE,
    STRATEGIES,
    assert_same,
    gradients,
    plain,
    randomize,
)

from mmmanikey.attention import ManifoldKeyAttention
from mmmanikey.backbones import ManifoldKeyViT

NANO = dict(embed_dims=12, num_layers=3, num_heads=3, feedforward_channels=24)
SMALL = dict(img_size=64, patch_size=8)
DENSE = dict(with_cls_token=False, out_type='featmap', **SMALL)
VITDET = dict(window_size=4, global_attn_indexes=(2,), use_rel_pos=True, **DENSE)
KEYS = [None, *STRATEGIES]


def make(key=None, arch=NANO, residual=False, **kwargs):
    if isinstance(key, str):
        own = dict(window_size=4) if key == 'SpatialK' else {}
        key = dict(type=key, num_charts=3, residual=residual, **own)
    return ManifoldKeyViT(arch, key=key, **{**SMALL, **kwargs})


def stock(arch=NANO, **kwargs):
    model = VisionTransformer(arch, **{**SMALL, **kwargs})
    model.train(False)
    return model


@pytest.mark.parametrize('arch', ['deit-tiny', 'deit-small', 'deit-base', 'base'])
def test_without_key_it_is_mmpretrains_vit(arch):
    """At 224, and at a size whose positions are interpolated."""
    reference = randomize(stock(arch, img_size=224, patch_size=16), std=0.02)
    ours = make(arch=arch, img_size=224, patch_size=16).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    for size in [(224, 224), (160, 208)]:
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert_same(ours(x)[0], reference(x)[0], STOCK_TOLERANCE)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(out_type='featmap'),
        dict(out_type='avg_featmap', with_cls_token=False),
        dict(out_type='raw', out_indices=[0, 2]),
        dict(pre_norm=True, qkv_bias=False, final_norm=False),
        dict(layer_scale_init_value=0.5),
        dict(interpolate_mode='bilinear'),
        dict(patch_size=16, layer_cfgs=dict(act_cfg=dict(type='ReLU'))),
    ],
    ids=lambda kwargs: '-'.join(kwargs),
)
def test_without_key_all_stock_arguments_work(kwargs):
    reference = randomize(stock(**copy.deepcopy(kwargs))).double()
    ours = make(**kwargs).double().eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 3, 72, 56, dtype=torch.float64)
    outs, expected = ours(x), reference(x)
    assert len(outs) == len(expected)
    for actual, want in zip(outs, expected):
        assert_same(actual, want, 1e-10)


@pytest.mark.parametrize('with_cls_token', [True, False])
@pytest.mark.parametrize('key', STRATEGIES)
def test_key_sees_the_token_grid(key, with_cls_token):
    """As the formula does: 9 x 7 tokens under windows of 4 x 4."""
    out_type = 'raw'
    model = randomize(make(key, with_cls_token=with_cls_token, out_type=out_type))
    model = model.double().eval()
    x = torch.randn(2, 3, 72, 56, dtype=torch.float64)
    expected = model(x)[0]
    assert_same(plain(model)(x)[0], expected, 1e-10)
    assert expected.shape == (2, 63 + with_cls_token, 12)


@pytest.mark.parametrize('key', STRATEGIES)
def test_residual_key_starts_as_the_stock_network(key):
    reference = randomize(stock(), std=0.05)
    ours = make(key, residual=True).eval()
    ours.init_weights()
    result = ours.load_state_dict(reference.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all('.key.' in name for name in result.missing_keys)
    x = torch.randn(2, 3, 64, 64)
    assert_same(ours(x)[0], reference(x)[0], STOCK_TOLERANCE)


@pytest.mark.parametrize('kwargs', [SMALL, VITDET], ids=['pretraining', 'dense'])
@pytest.mark.parametrize('key', KEYS)
def test_every_parameter_gets_a_gradient(key, kwargs):
    model = make(key, final_norm='with_cls_token' not in kwargs, **kwargs)
    model.init_weights()
    model(torch.randn(2, 3, 72, 56))[0].sin().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    assert not [n for n, p in model.named_parameters() if not p.grad.any()]


@pytest.mark.parametrize('use_rel_pos', [False, True])
@pytest.mark.parametrize('key', KEYS)
def test_a_window_as_large_as_the_grid_is_global_attention(key, use_rel_pos):
    dense = {**DENSE, 'use_rel_pos': use_rel_pos}
    windowed = randomize(make(key, window_size=8, **dense)).double().eval()
    everywhere = make(key, **dense).double().eval()
    everywhere.load_state_dict(windowed.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_same(windowed(x)[0], everywhere(x)[0], 1e-10)


def attention_layer(**options):
    return randomize(ManifoldKeyAttention.adopt(MultiheadAttention(12, 3), **options))


def test_windows_are_cut_padded_and_put_back():
    """A 5 x 3 grid in windows of 4: window by window by hand, zeros outside."""
    attention = (
        randomize(ManifoldKeyAttention.adopt(MultiheadAttention(12, 3), window_size=4))
        .double()
        .eval()
    )
    grid = torch.randn(1, 5, 3, 12, dtype=torch.float64)
    padded = torch.zeros(1, 8, 4, 12, dtype=torch.float64)
    padded[:, :5, :3] = grid
    expected = torch.cat(
        [
            attention.attend(padded[:, top : top + 4].flatten(1, 2), (4, 4)).view(
                1, 4, 4, 12
            )
            for top in (0, 4)
        ],
        dim=1,
    )
    actual = attention(grid.flatten(1, 2), (5, 3)).view(1, 5, 3, 12)
    assert_same(actual, expected[:, :5, :3], 1e-10)


@pytest.mark.parametrize('hw_shape', [(4, 4), (3, 5), (7, 6)])
def test_relative_positions_are_those_of_mmpretrain(hw_shape):
    """Also on grids other than the learned one, where they are interpolated."""
    attention = randomize(
        ManifoldKeyAttention.adopt(MultiheadAttention(12, 3), rel_pos_size=(4, 4))
    )
    num_tokens = hw_shape[0] * hw_shape[1]
    query = torch.randn(2, 3, num_tokens, 4)
    expected = add_decomposed_rel_pos(
        torch.zeros(6, num_tokens, num_tokens),
        query.flatten(0, 1),
        attention.rel_pos_h,
        attention.rel_pos_w,
        hw_shape,
        hw_shape,
    )
    actual = attention.position_bias(query, hw_shape).flatten(0, 1)
    assert_same(actual, expected, 1e-5)


def test_relative_positions_start_at_zero():
    with_positions = make(None, **VITDET).eval()
    without = make(None, **{**VITDET, 'use_rel_pos': False}).eval()
    without.load_state_dict(with_positions.state_dict(), strict=False)
    x = torch.randn(1, 3, 72, 56)
    assert_same(with_positions(x)[0], without(x)[0], 1e-5)


@pytest.mark.parametrize('kwargs', [SMALL, VITDET], ids=['pretraining', 'dense'])
@pytest.mark.parametrize('key', KEYS)
def test_checkpointing_equals_none(key, kwargs):
    model = make(key, **kwargs).double()
    model.init_weights()
    recomputed = make(key, with_cp=True, **kwargs).double()
    recomputed.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    out, expected = gradients(lambda t: model(t)[0], x, model)
    again, actual = gradients(lambda t: recomputed(t)[0], x, recomputed)
    assert_same(again, out, 1e-10)
    for name, grad in expected.items():
        assert_same(actual[name], grad, 1e-10)


@pytest.mark.parametrize('key', KEYS)
def test_pretraining_moves_into_detection_in_one_step(key):
    """224-like with class token -> larger, windowed, with relative positions."""
    pretrained = randomize(make(key))
    detector = make(key, **{**VITDET, 'img_size': 128})
    result = detector.load_state_dict(pretrained.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert {name.rsplit('.')[-1] for name in result.missing_keys} == {
        'rel_pos_h',
        'rel_pos_w',
    }
    small = pretrained.pos_embed[0, 1:].view(8, 8, 12)
    large = detector.pos_embed[0].view(16, 16, 12)
    assert_same(large.mean(dim=(0, 1)), small.mean(dim=(0, 1)), 5e-2)
    means = torch.nn.functional.avg_pool2d(large.permute(2, 0, 1), 2).permute(1, 2, 0)
    assert (means - small).abs().mean() < 0.3 * small.abs().mean()
    for name, value in pretrained.named_parameters():
        if name.startswith('layers'):
            assert torch.equal(detector.get_parameter(name), value), name


def test_class_token_is_kept_dropped_or_started():
    with_token, without = randomize(make()), make(None, **DENSE)
    result = without.load_state_dict(with_token.state_dict(), strict=True)
    assert torch.equal(without.pos_embed, with_token.pos_embed[:, 1:])
    again = make()
    token_position = again.pos_embed[:, :1].clone()
    result = again.load_state_dict(without.state_dict(), strict=False)
    assert result.missing_keys == ['cls_token']
    assert torch.equal(again.pos_embed[:, 1:], without.pos_embed)
    assert torch.equal(again.pos_embed[:, :1], token_position)


@pytest.mark.parametrize('key', KEYS)
def test_relative_positions_resize_at_load(key):
    if key:  # 2 divides both windows
        own = dict(window_size=2) if key == 'SpatialK' else {}
        key = dict(type=key, num_charts=3, **own)
    small = randomize(make(key, **VITDET))
    large = make(key, **{**VITDET, 'window_size': 6, 'img_size': 128})
    large.load_state_dict(small.state_dict(), strict=True)
    assert large.layers[0].attn.rel_pos_h.shape == (11, 4)
    assert large.layers[2].attn.rel_pos_h.shape == (31, 4)
    # the zero offset stays in the middle
    for layer in (0, 2):
        source = small.layers[layer].attn.rel_pos_h
        target = large.layers[layer].attn.rel_pos_h
        middle = target[len(target) // 2]
        assert_same(middle, source[len(source) // 2], 1e-5)


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3])
def test_frozen_stages_hold_from_construction(key, frozen_stages):
    model = make(key, frozen_stages=frozen_stages)
    frozen = ['patch_embed', 'pos_embed', 'cls_token'] if frozen_stages >= 0 else []
    frozen += [f'layers.{i}.' for i in range(max(frozen_stages, 0))]
    frozen += ['ln1'] if frozen_stages == 3 else []
    for _ in range(2):
        for name, parameter in model.named_parameters():
            is_frozen = name.startswith(tuple(frozen)) if frozen else False
            assert parameter.requires_grad != is_frozen, name
        assert model.layers[0].training == (frozen_stages < 1)
        model.train()


def test_context_broadcasting_follows_its_formula():
    model = randomize(make('VanillaK', context_broadcasting=True)).double().eval()
    layer = model.layers[0]
    x = torch.randn(2, 1 + 35, 12, dtype=torch.float64)
    middle = x + layer.attn(layer.ln1(x), (5, 7))
    mlp = layer.ffn.layers[1](layer.ffn.layers[0](layer.ln2(middle)))
    expected = middle + (mlp + mlp.mean(dim=1, keepdim=True)) / 2
    assert_same(layer(x, (5, 7)), expected, 1e-10)


@pytest.mark.parametrize('key', KEYS)
def test_layers_are_called_as_the_stock_ones(key):
    """In a forward pass of one's own; SpatialK then takes the tokens of one window."""
    model = randomize(make(key)).eval()
    x = torch.randn(2, 16, 12)
    for layer in model.layers:
        assert_same(layer(x), layer(x, (4, 4)), 1e-6)
        assert_same(layer.attn(x), layer.attn(x, (4, 4)), 1e-6)
    if key is None:
        reference = stock()
        reference.load_state_dict(model.state_dict())
        assert_same(layer(x), reference.layers[-1](x), STOCK_TOLERANCE)


def test_one_key_per_layer():
    model = make([None, dict(type='KUA'), None])
    kinds = [type(layer.attn.key).__name__ for layer in model.layers]
    assert kinds == ['NoneType', 'KUA', 'NoneType']


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(key=[None]), 'key lists 1 configs for 3 layers'),
        (dict(key=dict(type='SpatialK'), **VITDET), 'does not divide the window'),
        (dict(window_size=4), 'class token or registers have no place in windows'),
        (dict(use_rel_pos=True), 'class token or registers have no place in windows'),
        (dict(layer_cfgs=dict(drop_path_rate=1)), 'drop_path_rate must be less than 1'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message) as info:
        ManifoldKeyViT(NANO, **{**SMALL, **kwargs})
    assert '\n' not in str(info.value)
