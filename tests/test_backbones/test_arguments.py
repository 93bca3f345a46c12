"""Every argument of backbones, attention and neck, wrong in kind and out of range.

One sentence each, at construction, with the value or what was allowed. The arguments
of the keys themselves are in tests/test_keys/test_errors.py.
"""

import inspect

import pytest
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from mmpretrain.models.utils import MultiheadAttention, WindowMSA
from mmpretrain.models.utils.attention import WindowMSAV2
from torch import nn

from mmmanikey.attention import ManifoldKeyAttention, ManifoldKeyWindowMSA
from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.necks import SimpleFPN

SWIN_ARCH = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4])
VIT_ARCH = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)


def vit_attention(key=None, window_size=0, rel_pos_size=None):
    """ViT's attention, of mmpretrain's layer."""
    stock = MultiheadAttention(8, 2)
    return ManifoldKeyAttention.adopt(stock, key, window_size, rel_pos_size)


def swin_attention(key=None):
    """Swin's attention, of mmpretrain's layer."""
    return ManifoldKeyWindowMSA.adopt(WindowMSA(8, (4, 4), 2), key)


VALID = {
    ManifoldKeySwin: dict(arch=SWIN_ARCH, out_indices=(0, 1)),
    ManifoldKeyViT: dict(arch=VIT_ARCH, with_cls_token=False, out_type='featmap'),
    vit_attention: dict(),
    swin_attention: dict(),
    SimpleFPN: dict(in_channels=8),
}
BACKBONES = ManifoldKeySwin, ManifoldKeyViT
LAYERS = vit_attention, swin_attention
PIXELS = 'x', 0, -1, 1.5, True, None, [], {}, (4, 0), (4, 4, 4)
COUNTS = 'x', 0, -1, 1.5, True, None, (4, 4), [], {}
RATES = 'x', -0.1, 1.5, True, None, (), float('nan')
SWITCHES = 'x', 'False', 1, 0, None, []
CONFIGS = 'x', 8, None
KEYS = 'x', 8, [], {}, [None], [8, 8], dict(type='K'), dict(type=8), dict(type=['x'])
KEYS += dict(type=nn.Linear), dict(type='VanillaK', foo=1), dict(num_charts=2)
KEYS += (dict(type='VanillaK', embed_dims=4), dict(type='SpatialK', window_size=0))
KEYS += tuple(dict(type='VanillaK', residual=wrong) for wrong in SWITCHES)

#: (classes, argument, what it must not be)
WRONG = [
    *((BACKBONES, name, PIXELS) for name in ('img_size', 'patch_size')),
    (BACKBONES, 'in_channels', COUNTS),
    (BACKBONES, 'drop_rate', RATES),
    (BACKBONES, 'drop_path_rate', (*RATES, 1, 1.0)),
    (BACKBONES, 'interpolate_mode', ('x', 'nearest', None, 1)),
    (
        BACKBONES,
        'out_indices',
        ('x', 2, -3, (2,), (-3,), (0.5,), (True,), (), {0: 1}, None),
    ),
    (BACKBONES, 'frozen_stages', ('x', 1.5, True, None, -2, 3, (0,))),
    (BACKBONES, 'arch', ('nano', 8, None, {}, dict(embed_dims=8))),
    (BACKBONES, 'init_cfg', ('x', 8, {}, [8], [dict(std=1.0)])),
    (BACKBONES, 'norm_cfg', ('LN', 8, {})),
    (BACKBONES, 'patch_cfg', (*CONFIGS, dict(foo=1))),
    (BACKBONES, 'nonsense', (1,)),
    *((BACKBONES, name, SWITCHES) for name in ('context_broadcasting', 'with_cp')),
    ((*BACKBONES, *LAYERS), 'key', KEYS),
    (BACKBONES, 'key_residual', (True, False)),  # its old name
    ((ManifoldKeySwin,), 'window_size', COUNTS),
    ((ManifoldKeyViT,), 'num_registers', ('x', -1, 1.5, True, None, (4, 4), [], {})),
    (
        (ManifoldKeySwin,),
        'arch',
        [
            {**SWIN_ARCH, **wrong}
            for wrong in (
                dict(depths=[2]),
                dict(depths=[2, 2, 2]),
                dict(depths=2),
                dict(depths='22'),
                dict(depths=[0, 2]),
                dict(depths=['2', 2]),
                dict(embed_dims=0),
                dict(embed_dims=9),
                dict(num_heads=[3, 4]),
                dict(num_heads=[0, 4]),
                dict(num_heads=2),
                dict(nonsense=1),
            )
        ],
    ),
    *(
        ((ManifoldKeySwin,), name, SWITCHES)
        for name in (
            'out_after_downsample',
            'use_abs_pos_embed',
            'norm_eval',
            'pad_small_map',
        )
    ),
    (
        (ManifoldKeySwin,),
        'stage_cfgs',
        (*CONFIGS, [{}], dict(foo=1), dict(block_cfgs=8), dict(block_cfgs=[{}])),
    ),
    (
        (ManifoldKeySwin,),
        'stage_cfgs',
        [
            dict(block_cfgs=dict(attn_cfgs=wrong))
            for wrong in (
                dict(qk_scale=-1.0),
                dict(attn_drop=2.0),
                dict(window_msa=nn.Identity),
            )
        ],
    ),
    (
        (ManifoldKeyViT,),
        'arch',
        [
            {**VIT_ARCH, **wrong}
            for wrong in (
                dict(embed_dims=0),
                dict(embed_dims=9),
                dict(num_layers=0),
                dict(num_layers='2'),
                dict(num_heads=0),
                dict(num_heads=3),
                dict(feedforward_channels=0),
                dict(feedforward_channels=1.5),
                dict(nonsense=1),
            )
        ],
    ),
    *(
        ((ManifoldKeyViT,), name, SWITCHES)
        for name in ('final_norm', 'with_cls_token', 'pre_norm', 'use_rel_pos')
    ),
    ((ManifoldKeyViT,), 'layer_cfgs', (*CONFIGS, [{}], dict(foo=1))),
    ((ManifoldKeyViT,), 'layer_scale_init_value', ('x', None, -1, True, float('nan'))),
    ((ManifoldKeyViT,), 'out_type', ('x', None, 'cls_token')),
    ((ManifoldKeyViT,), 'global_attn_indexes', ('x', 5, None, [2], (-1,), (0.5,), {})),
    (
        (ManifoldKeyViT, vit_attention),
        'window_size',
        ('x', -1, 1.5, True, None, (4, 4)),
    ),
    ((ManifoldKeyViT,), 'qkv_bias', SWITCHES),
    (
        (vit_attention,),
        'rel_pos_size',
        ('x', 0, (4,), (0, 4), (4.0, 4), ()),
    ),
    ((SimpleFPN,), 'in_channels', (*COUNTS, 6)),
    ((SimpleFPN,), 'out_channels', COUNTS),
    ((SimpleFPN,), 'num_outs', (*COUNTS, 3, 6)),
    ((SimpleFPN,), 'norm_cfg', ('LN', 8, None, {})),
    ((SimpleFPN,), 'nonsense', (1,)),
]
CASES = [
    pytest.param(cls, name, value, id=f'{cls.__name__}-{name}-{value!r}')
    for classes, name, values in WRONG
    for cls in classes
    for value in values
]


@pytest.mark.parametrize(('cls', 'name', 'value'), CASES)
def test_wrong_arguments_are_one_sentence(cls, name, value):
    with pytest.raises((ValueError, TypeError)) as info:
        cls(**{**VALID[cls], name: value})
    sentence = str(info.value)
    assert '\n' not in sentence
    inner = name in ('arch', 'patch_cfg', 'key') or name.endswith('_cfgs')
    assert name in sentence or inner, sentence
    assert 'unsupported operand' not in sentence
    assert 'not supported' not in sentence


@pytest.mark.parametrize('cls', VALID)
def test_the_others_are_right(cls):
    cls(**VALID[cls])


@pytest.mark.parametrize(
    ('cls', 'stock'),
    [
        (ManifoldKeySwin, SwinTransformer),
        (ManifoldKeyViT, VisionTransformer),
        *((cls, cls) for cls in (*LAYERS, SimpleFPN)),
    ],
)
def test_every_argument_is_in_the_table(cls, stock):
    named = {*inspect.signature(cls).parameters, *inspect.signature(stock).parameters}
    listed = {name for classes, name, _ in WRONG if cls in classes}
    # a layer's and a neck's init_cfg are mmengine's business
    assert named - listed <= {'args', 'kwargs', *(['init_cfg'] if cls is stock else [])}


@pytest.mark.parametrize('cls', BACKBONES)
def test_unknown_arguments_are_told_the_known_ones(cls):
    with pytest.raises(TypeError, match='no argument keys; it takes key, cont.* arch'):
        cls(**VALID[cls], keys=1)


@pytest.mark.parametrize('cls', BACKBONES)
def test_a_subclass_brings_its_own_arguments(cls):
    class Mine(cls):
        def __init__(self, *args, mine=1, **kwargs):
            super().__init__(*args, **kwargs)
            self.mine = mine

    assert Mine(**VALID[cls], mine=2).mine == 2
    with pytest.raises(ValueError, match="drop_rate must be .* got 'x'"):
        Mine(**VALID[cls], drop_rate='x')


@pytest.mark.parametrize('cls', BACKBONES)
def test_arguments_by_position_are_checked_too(cls):
    arch = VALID[cls]['arch']
    with pytest.raises(ValueError, match='patch_size must be .* got 0'):
        cls(arch, 32, 0)
    with pytest.raises(TypeError, match=f'{cls.__name__} got img_size twice'):
        cls(arch, 32, img_size=64)
    assert cls(arch, 32, 8, out_indices=-1).patch_embed.projection.stride == (8, 8)


@pytest.mark.parametrize('cls', BACKBONES)
def test_output_indices_count_from_the_last(cls):
    given = [-1, 0]
    model = cls(**{**VALID[cls], 'out_indices': given})
    assert list(model.out_indices) == [1, 0]
    assert given == [-1, 0]
    assert len(model(torch.randn(1, 3, 64, 64))) == 2


def test_another_window_attention_is_refused():
    cfgs = dict(block_cfgs=dict(attn_cfgs=dict(window_msa=WindowMSAV2)))
    with pytest.raises(TypeError, match='key of a WindowMSA, got a WindowMSAV2'):
        ManifoldKeySwin('tiny', stage_cfgs=cfgs)


@pytest.mark.parametrize('cls', BACKBONES)
@pytest.mark.parametrize(
    'images',
    [
        torch.randn(3, 32, 32),
        torch.randn(1, 4, 32, 32),
        torch.randn(0, 3, 32, 32),
        torch.randn(1, 3, 0, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        [torch.randn(3, 32, 32)],
    ],
    ids=['unbatched', 'channels', 'empty', 'no rows', 'uint8', 'list'],
)
def test_what_is_no_image_is_one_sentence(cls, images):
    with pytest.raises(ValueError, match=r'takes images \(B, 3, H, W\)') as info:
        cls(**VALID[cls])(images)
    assert '\n' not in str(info.value)
