"""Our backbones by the arguments of mmdet's and mmseg's: the networks that theirs make.

Those of the ViT of mmdet's ViTDet are in ``test_vitdet.py``.
"""

import inspect

import mmdet.models.backbones.swin as mmdet_swin
import mmseg.models.backbones.swin as mmseg_swin
import pytest
import torch
from mmseg.models.backbones import VisionTransformer
from oracles import STOCK_TOLERANCE, STRATEGIES, assert_same, randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.backbones.spellings import defaults_of, from_mmdet_swin
from mmmanikey.backbones.vit_spellings import from_mmseg_vit
from mmmanikey.checkpoint import PretrainedBackbone

STOCK = dict(mmdet=mmdet_swin.SwinTransformer, mmseg=mmseg_swin.SwinTransformer)
NANO = dict(embed_dims=12, depths=(2, 1, 1), num_heads=(2, 3, 4), out_indices=(0, 1, 2))
KEYS = [None, *(dict(type=name, num_charts=2, residual=True) for name in STRATEGIES)]


def pair(framework='mmdet', key=None, **kwargs):
    """The stock backbone, and ours with its weights."""
    stock = randomize(STOCK[framework](**{**NANO, **kwargs}), std=0.05)
    ours = ManifoldKeySwin(key=key, **{**NANO, **kwargs})
    ours.init_weights()
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all('.key.' in name for name in result.missing_keys)
    stock.train(False)  # returns nothing
    return stock, ours.eval()


def flat(outputs):
    """The tensors of nested lists."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for each in outputs for tensor in flat(each)]


def assert_same_maps(ours, stock, x):
    actual, expected = flat(ours(x)), flat(stock(x))
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        assert_same(a, e, STOCK_TOLERANCE)


def defaults(cls):
    parameters = inspect.signature(cls).parameters
    return {name: p.default for name, p in parameters.items()}


@pytest.mark.parametrize(
    ('stock', 'translate'),
    [
        *((cls, from_mmdet_swin) for cls in STOCK.values()),
        (VisionTransformer, from_mmseg_vit),
    ],
)
def test_the_function_has_the_arguments_of_the_stock_class(stock, translate):
    """Its names and defaults, but for what our class has itself."""
    own = {'with_cp', 'frozen_stages', 'init_cfg', 'pretrained'}
    named = {n: d for n, d in defaults(stock).items() if n not in own}
    found = defaults_of(translate)
    only_mmdets = found.keys() - named.keys()
    assert only_mmdets <= {'convert_weights'}
    assert {n: found[n] for n in named} == named


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(window_size=4, strides=(2, 2, 1), patch_size=2),
        dict(pretrain_img_size=(66, 58), use_abs_pos_embed=True),
        dict(pretrain_img_size=(64,), use_abs_pos_embed=True, window_size=4),
        dict(patch_norm=False, norm_cfg=dict(type='LN', eps=1e-2)),
        dict(qkv_bias=False, qk_scale=0.3, act_cfg=dict(type='ReLU'), mlp_ratio=3),
        dict(in_channels=4, out_indices=(1,)),
    ],
    ids=lambda kwargs: '-'.join(kwargs) or 'defaults',
)
@pytest.mark.parametrize('framework', STOCK)
@pytest.mark.parametrize('key', KEYS, ids=lambda key: key and key['type'])
def test_every_argument_has_its_meaning(framework, key, kwargs):
    stock, ours = pair(framework, key, **kwargs)
    sizes = {(66, 58): [(64, 56)], (64,): [(64, 64)]}  # theirs take no other
    for size in sizes.get(kwargs.get('pretrain_img_size'), [(64, 56), (75, 53)]):
        x = torch.randn(1, kwargs.get('in_channels', 3), *size)
        assert_same_maps(ours, stock, x)


def test_rates_stand_where_the_stock_class_has_them():
    """Of dropout after attention and MLP, of weights of attention, of depth."""
    rates = dict(drop_rate=0.11, attn_drop_rate=0.22, drop_path_rate=0.33)
    for stock, ours in (pair(**rates), pair('mmseg', **rates)):
        theirs, own = dict(stock.named_modules()), dict(ours.named_modules())
        for name, module in theirs.items():
            if isinstance(module, torch.nn.Dropout):
                assert own[name].p == module.p, name
            if hasattr(module, 'drop_prob'):
                assert own[name].drop_prob == pytest.approx(module.drop_prob), name


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3])
@pytest.mark.parametrize('framework', STOCK)
def test_frozen_stages_have_their_meaning(framework, frozen_stages):
    kwargs = dict(frozen_stages=frozen_stages, use_abs_pos_embed=True)
    stock, ours = pair(framework, pretrain_img_size=64, **kwargs)
    stock.train()
    ours.train()
    trained = {n: p.requires_grad for n, p in stock.named_parameters()}
    assert {n: p.requires_grad for n, p in ours.named_parameters()} == trained
    modes = {n: m.training for n, m in ours.named_modules()}
    for name, module in stock.named_modules():
        if any(True for _ in module.parameters()) and name in modes:
            assert modes[name] == module.training, name


def test_recomputed_blocks_have_the_same_gradients():
    stock, ours = pair(with_cp=True, key=KEYS[-1])
    for model in (stock, ours):
        model.train()
        for module in model.modules():
            if hasattr(module, 'drop_prob'):
                module.drop_prob = 0.0
        x = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
        sum(out.sin().sum() for out in model(x)).backward()
    for name, parameter in stock.named_parameters():
        assert_same(ours.get_parameter(name).grad, parameter.grad, 1e-5)


def test_neither_spelling_is_mmpretrains():
    model = ManifoldKeySwin(window_size=7, drop_path_rate=0.0)
    assert model.out_indices == (3,)
    assert not model.stages[0].blocks[0].attn.pad_small_map


ONE_SENTENCE = [
    (
        dict(arch='tiny', embed_dims=96),
        TypeError,
        'mixed: arch of mmpretrain.*embed_dims of mmdet',
    ),
    (dict(img_size=64, pretrain_img_size=64), TypeError, 'mixed: img_size of .*and'),
    (
        dict(stage_cfgs={}, mlp_ratio=4),
        TypeError,
        'mixed: stage_cfgs of .* and mlp_ratio of',
    ),
    (dict(embed_dims=96, size=1), TypeError, 'no argument size; it takes .*qk_scale'),
    (
        dict(depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1)
        | dict(norm_cfg=dict(type='BN'), norm_eval=True, style='pytorch'),
        TypeError,
        'no argument depth, num_stages, style; .* begin with _delete_=True',
    ),
    (dict(pretrained=123), TypeError, 'pretrained must be .* got 123'),
    (
        dict(pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b.pth')),
        ValueError,
        "pretrained='a.pth' and init_cfg=",
    ),
    (dict(strides=(2, 2, 2, 2), patch_size=4), ValueError, 'the first of strides must'),
    (dict(embed_dims=96, strides=(4, 2)), ValueError, 'strides must list a number'),
    (dict(embed_dims=96, strides=4), ValueError, 'strides must list .* got 4'),
    (dict(strides=(4, 0, 2, 2)), ValueError, 'each of strides must .* got 0'),
    (dict(pretrain_img_size=(224, 224, 224)), ValueError, 'pretrain_img_size must be'),
    (dict(pretrain_img_size=2.5), ValueError, 'pretrain_img_size must be .* got 2.5'),
    (dict(mlp_ratio=0), ValueError, 'mlp_ratio must be a positive number, got 0'),
    (dict(depths=2), ValueError, 'depths and num_heads must be lists'),
    (dict(embed_dims=95), ValueError, 'num_heads must divide embed_dims'),
    (dict(qkv_bias='x'), TypeError, "qkv_bias must be True or False, got 'x'"),
    (dict(patch_norm=1), TypeError, 'patch_norm must be True or False, got 1'),
    (dict(convert_weights='x'), TypeError, 'convert_weights must be True or False'),
    (dict(qk_scale=-1.0), ValueError, 'qk_scale must be a positive number, got -1.0'),
    (dict(attn_drop_rate=2), ValueError, 'attn_drop_rate must be .* got 2'),
    (dict(embed_dims=96, drop_rate=2), ValueError, 'drop_rate must be .* got 2'),
    (dict(act_cfg='GELU'), TypeError, "act_cfg must be a dict with 'type'"),
    (
        dict(mlp_ratio=4, norm_cfg=None),
        TypeError,
        "norm_cfg must be a dict with 'type'",
    ),
]


@pytest.mark.parametrize(('kwargs', 'error', 'message'), ONE_SENTENCE)
def test_bad_arguments_are_one_sentence(kwargs, error, message):
    with pytest.raises(error, match=message) as info:
        ManifoldKeySwin(**kwargs)
    assert '\n' not in str(info.value)


NANO_VIT = dict(embed_dims=12, num_layers=3, num_heads=3, img_size=64, patch_size=8)


def vit_pair(key=None, **kwargs):
    """mmseg's ViT, and ours with its weights, by plain ``load_state_dict``."""
    stock = randomize(VisionTransformer(**{**NANO_VIT, **kwargs}), std=0.05)
    ours = ManifoldKeyViT(key=key, **{**NANO_VIT, **kwargs})
    ours.init_weights()
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all('.key.' in name for name in result.missing_keys)
    stock.train(False)  # returns nothing
    return stock, ours.eval()


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(out_indices=(0, 2), output_cls_token=True, final_norm=True),
        dict(out_indices=[1], out_origin=True, pre_norm=True, patch_norm=True),
        dict(with_cls_token=False, patch_bias=True, interpolate_mode='bilinear'),
        dict(qkv_bias=False, act_cfg=dict(type='ReLU'), mlp_ratio=2, num_fcs=3),
        dict(img_size=(70, 58), norm_cfg=dict(type='LN', eps=1e-2)),
        dict(img_size=(64,), in_channels=4, patch_pad=0),
    ],
    ids=lambda kwargs: '-'.join(kwargs) or 'defaults',
)
@pytest.mark.parametrize('key', KEYS, ids=lambda key: key and key['type'])
def test_every_argument_of_mmsegs_vit_has_its_meaning(key, kwargs):
    stock, ours = vit_pair(key, **kwargs)
    for size in ((64, 64), (75, 53)):
        assert_same_maps(
            ours, stock, torch.randn(1, kwargs.get('in_channels', 3), *size)
        )


def test_rates_of_mmsegs_vit():
    """Drop path stands after its MLP, and not after its attention."""
    ours = vit_pair(drop_rate=0.1, attn_drop_rate=0.2, drop_path_rate=0.3)[1]
    layer = ours.layers[-1]
    assert layer.attn.attn_drop == 0.2
    assert layer.attn.proj_drop.p == ours.drop_after_pos.p == 0.1
    assert layer.ffn.dropout_layer.drop_prob == pytest.approx(0.3)
    assert [layer.ffn.layers[0][2].p, layer.ffn.layers[2].p] == [0.1, 0.1]
    x = torch.randn(2, 5, 12)
    assert torch.equal(layer.attn.train().out_drop(x), x)


def test_frozen_and_evaluated_parts_of_mmsegs_vit():
    kwargs = dict(frozen_exclude=['pos_embed', 'ffn'], norm_eval=True, final_norm=True)
    stock, ours = vit_pair(**kwargs)
    stock.train()
    ours.train()
    trained = {name for name, p in stock.named_parameters() if p.requires_grad}
    assert {name for name, p in ours.named_parameters() if p.requires_grad} == trained
    for model in (stock, ours):
        norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
        assert norms
        assert not any(norm.training for norm in norms)
    assert all(p.requires_grad for p in vit_pair()[1].parameters())


def test_weights_of_mmsegs_vit_load_from_a_file(tmp_path):
    stock, ours = vit_pair(final_norm=True, img_size=32)
    larger = ManifoldKeyViT(final_norm=True, **NANO_VIT, key=KEYS[1])
    torch.save({**stock.state_dict(), 'head.weight': torch.ones(2)}, tmp_path / 'w.pth')
    coverage = PretrainedBackbone(str(tmp_path / 'w.pth')).load(larger)
    assert coverage.resized == ['pos_embed']
    assert 'mmseg ViT layout' in coverage.source
    weight = stock.layers[0].attn.attn.in_proj_weight
    assert torch.equal(larger.layers[0].attn.qkv.weight, weight)


VIT_SENTENCES = [
    (
        dict(arch='base', embed_dims=96),
        TypeError,
        'mixed: arch of .* and embed_dims of',
    ),
    (
        dict(embed_dim=96, embed_dims=96),
        TypeError,
        'mixed: embed_dims of mmseg.* and embed_dim of',
    ),
    (dict(embed_dims=96, size=1), TypeError, 'no argument size; it takes .*patch_pad'),
    (dict(embed_dim=96, size=1), TypeError, 'no argument size; it takes .*in_chans'),
    (
        dict(depth=50, num_stages=4, out_indices=(0, 1, 2, 3), style='pytorch'),
        TypeError,
        'no argument num_stages.* begin with _delete_=True',
    ),
    (dict(depth=3, global_attn_indexes=(1,)), TypeError, 'global_attn_indexes says'),
    (dict(num_layers=2, img_size=512.0), ValueError, 'img_size must be .* got 512.0'),
    (dict(num_layers=2, img_size=(8, 8, 8)), ValueError, 'img_size must be an int or'),
    (dict(num_layers=2, out_indices=1.0), ValueError, 'out_indices must be .* got 1.0'),
    (dict(num_layers=0), ValueError, 'num_layers must be a positive integer, got 0'),
    (dict(pretrained=123), TypeError, 'pretrained must be .* got 123'),
    (dict(out_shape='NCL'), TypeError, 'no argument out_shape'),
    (dict(mlp_ratio=0), ValueError, 'mlp_ratio must be a positive number, got 0'),
    (dict(patch_norm=1), TypeError, 'patch_norm must be True or False, got 1'),
    (dict(patch_bias=1), TypeError, 'patch_bias must be True or False, got 1'),
    (dict(num_fcs=0), ValueError, 'num_fcs must be a positive integer, got 0'),
    (dict(act_cfg='GELU'), TypeError, "act_cfg must be a dict with 'type'"),
    (dict(attn_drop_rate=2), ValueError, 'attn_drop_rate must be .* got 2'),
    (dict(norm_eval='x'), TypeError, 'norm_eval must be True or False'),
    (dict(out_origin='x'), TypeError, 'out_origin must be True or False'),
    (dict(frozen_exclude='all'), TypeError, 'frozen_exclude must be a list'),
    (
        dict(output_cls_token=True, with_cls_token=False),
        ValueError,
        'output_cls_token=True needs with_cls_token=True, got False',
    ),
    (dict(depth=0), ValueError, 'depth must be a positive integer, got 0'),
    (dict(depth=1, window_size=-1), ValueError, 'window_size must be 0 or a positive'),
    (dict(depth=1, window_block_indexes=3), TypeError, 'window_block_indexes must be'),
    (dict(rel_pos_zero_init=1), TypeError, 'rel_pos_zero_init must be True or False'),
    (dict(use_abs_pos=1), TypeError, 'use_abs_pos must be True or False, got 1'),
    (dict(pretrain_use_cls_token=1), TypeError, 'pretrain_use_cls_token must be True'),
]


@pytest.mark.parametrize(('kwargs', 'error', 'message'), VIT_SENTENCES)
def test_bad_arguments_of_a_vit_are_one_sentence(kwargs, error, message):
    with pytest.raises(error, match=message) as info:
        ManifoldKeyViT(**kwargs)
    assert '\n' not in str(info.value)
