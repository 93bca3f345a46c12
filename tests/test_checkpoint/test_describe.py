"""What names and shapes say about a backbone, against what it was built with."""

import pytest
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from oracles import CHANNEL_STRATEGIES, STRATEGIES

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import describe_backbone

SWIN = dict(embed_dims=12, depths=[2, 1, 3], num_heads=[2, 3, 6])
VIT = dict(embed_dims=24, num_layers=3, num_heads=4, feedforward_channels=40)
SWIN_SHAPE = dict(
    type='Swin',
    embed_dims=12,
    patch_size=(4, 4),
    depths=(2, 1, 3),
    num_heads=(2, 3, 6),
    window_size=5,
    output_norms=(0, 2),
)
VIT_SHAPE = dict(
    type='ViT',
    embed_dims=24,
    patch_size=(8, 8),
    num_layers=3,
    num_heads=None,
    feedforward_channels=40,
    img_size=(48, 48),
    with_cls_token=True,
    relative_positions=(),
)
LINEAR = dict(type='linear')


def swin(key=None, cls=ManifoldKeySwin, **kwargs):
    kwargs = kwargs if cls is SwinTransformer else dict(key=key, **kwargs)
    return cls(SWIN, window_size=5, out_indices=(0, 2), **kwargs).state_dict()


def vit(key=None, cls=ManifoldKeyViT, **kwargs):
    kwargs = kwargs if cls is VisionTransformer else dict(key=key, **kwargs)
    return cls(VIT, img_size=48, patch_size=8, **kwargs).state_dict()


def key_config(strategy, window):
    """A config, and the description of it."""
    config = dict(type=strategy, num_charts=3)
    described = dict(type=strategy, num_charts=3, residual=False)
    if strategy == 'SpatialK':
        return config, dict(described, window_tokens=window**2)
    return dict(config, hidden_ratio=0.5), dict(described, hidden_ratio=0.5)


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('residual', [False, True])
def test_every_strategy(strategy, residual):
    key, expected = key_config(strategy, 5)
    expected['residual'] = residual
    assert describe_backbone(swin(key, key_residual=residual)) == dict(
        SWIN_SHAPE, keys=[expected] * 3
    )
    key, expected = key_config(strategy, 14)
    expected['residual'] = residual
    assert describe_backbone(vit(key, key_residual=residual)) == dict(
        VIT_SHAPE, keys=[expected] * 3
    )


@pytest.mark.parametrize('strategy', CHANNEL_STRATEGIES)
def test_hidden_layers_as_wide_as_the_key(strategy):
    key = dict(type=strategy, num_charts=2)
    expected = dict(type=strategy, num_charts=2, residual=False, hidden_ratio=1.0)
    assert describe_backbone(swin(key))['keys'] == [expected] * 3


def test_equal_shapes_are_called_equal():
    """SimpleK over 16 channels, and SpatialK over 16 tokens of 16 channels."""
    arch = dict(embed_dims=16, depths=[1], num_heads=[2])
    for strategy in ('SimpleK', 'SpatialK'):
        model = ManifoldKeySwin(
            arch, window_size=4, out_indices=(0,), key=dict(type=strategy)
        )
        (key,) = describe_backbone(model.state_dict())['keys']
        assert key['type'] == 'SimpleK or SpatialK'


@pytest.mark.parametrize('cls', [SwinTransformer, ManifoldKeySwin])
def test_stock_swin(cls):
    assert describe_backbone(swin(cls=cls)) == dict(SWIN_SHAPE, keys=[LINEAR] * 3)


@pytest.mark.parametrize('cls', [VisionTransformer, ManifoldKeyViT])
def test_stock_vit(cls):
    assert describe_backbone(vit(cls=cls)) == dict(VIT_SHAPE, keys=[LINEAR] * 3)


def test_a_key_per_stage_and_per_layer():
    spatial, described = key_config('SpatialK', 5)
    kua, described_kua = key_config('KUA', 5)
    found = describe_backbone(swin([spatial, None, kua]))
    assert found['keys'] == [described, LINEAR, described_kua]
    assert describe_backbone(vit([None, kua, None]))['keys'][1] == described_kua


def test_vitdet():
    found = describe_backbone(
        vit(
            with_cls_token=False,
            out_type='featmap',
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        )
    )
    expected = dict(
        VIT_SHAPE, with_cls_token=False, num_heads=4, relative_positions=(4, 6, 4)
    )
    assert found == dict(expected, keys=[LINEAR] * 3)


def test_what_is_neither():
    assert describe_backbone({'fc.weight': torch.ones(2, 2)}) is None
    weights = swin(dict(type='KUA'))
    del weights['patch_embed.projection.weight']
    assert describe_backbone(weights) is None
    for name in list(weights := swin(dict(type='KUA'))):
        if name.endswith('conv1.weight'):
            weights[name] = weights[name].flatten()
    unknown = dict(type='unknown', residual=False)
    assert describe_backbone(weights)['keys'] == [unknown] * 3
    for name in list(weights := swin(dict(type='SimpleK', num_charts=2))):
        if name.endswith('out.weight'):
            del weights[name]
    unknown['num_charts'] = 2
    assert describe_backbone(weights)['keys'] == [unknown] * 3


def test_a_vit_without_positions():
    """Its image size cannot be told, nor SimpleK from SpatialK over as many tokens."""
    arch = dict(VIT, embed_dims=16)
    model = ManifoldKeyViT(arch, img_size=48, key=dict(type='SimpleK', num_charts=2))
    weights = model.state_dict()
    del weights['pos_embed']
    found = describe_backbone(weights)
    assert found['img_size'] is None
    assert {key['type'] for key in found['keys']} == {'SimpleK or SpatialK'}
