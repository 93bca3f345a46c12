"""Layouts: converted random weights give the original code's output, both ways."""

import re

import pytest
import timm
import torch
import torch.nn.functional as F
from mmdet.models.backbones import SwinTransformer as MMDetSwin
from mmpretrain.models import SwinTransformer as MMPretrainSwin
from mmpretrain.models.selfsup import MAEViT
from oracles import assert_same, randomize
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer import checkpoint_filter_fn
from timm.models.vision_transformer import VisionTransformer as TimmViT
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import PretrainedBackbone, find_layout, from_ours, to_ours

CONVERTED = 1e-5
DEPTHS, HEADS, DIMS = [2, 2, 2], [2, 3, 4], 12
SWIN = dict(embed_dims=DIMS, depths=DEPTHS, num_heads=HEADS)
VIT = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=96)
COMPUTED = 'relative_position_index'
#: Maps of every stage are whole windows: timm shifts before it pads, all others after.
IMAGES = [(64, 64), (128, 192)]


def our_swin(key=None, **kwargs):
    settings = dict(window_size=4, out_indices=(2,), key=key)
    return randomize(ManifoldKeySwin(SWIN, **{**settings, **kwargs})).train(False)


def timm_swin(image=(64, 64), **kwargs):
    return randomize(
        TimmSwin(
            img_size=image,
            embed_dim=DIMS,
            depths=DEPTHS,
            num_heads=HEADS,
            window_size=4,
            **kwargs,
        )
    ).eval()


def mmdet_swin():
    model = MMDetSwin(
        embed_dims=DIMS,
        depths=DEPTHS,
        num_heads=HEADS,
        window_size=4,
        strides=(4, 2, 2),
        out_indices=(0, 1, 2),
    )
    model.train(False)
    return randomize(model)


def our_vit(key=None, **kwargs):
    settings = dict(img_size=64, patch_size=16, out_type='raw', key=key)
    return randomize(ManifoldKeyViT(VIT, **{**settings, **kwargs})).train(False)


def timm_vit(cls=TimmViT, **kwargs):
    settings = dict(img_size=64, embed_dim=24, depth=3, num_heads=2)
    return randomize(cls(**{**settings, **kwargs})).eval()


def load(model, weights):
    """Load, and be sure that nothing is missing and nothing left over."""
    own = {name for name in model.state_dict() if not name.endswith(COMPUTED)}
    assert {name for name in weights if not name.endswith(COMPUTED)} == own
    model.load_state_dict(weights, strict=False)
    return model


def microsoft_names(weights):
    """timm's weights under the names of Swin's own repository."""
    renamed = {
        re.sub(
            r'layers\.(\d)\.downsample',
            lambda match: f'layers.{int(match[1]) - 1}.downsample',
            name.replace('head.fc.', 'head.'),
        ): value
        for name, value in weights.items()
    }
    for name in [name for name in renamed if name.endswith('bias_table')]:
        renamed[name.replace('bias_table', 'index')] = torch.zeros(16, 16).long()
    return {**renamed, 'layers.0.blocks.1.attn_mask': torch.zeros(16, 16, 16)}


@pytest.mark.parametrize('image', IMAGES)
def test_timm_swin(image):
    theirs = timm_swin(image)
    assert find_layout(theirs.state_dict()).name == 'timm Swin'
    ours = load(our_swin(), to_ours(theirs.state_dict()))
    x = torch.randn(2, 3, *image)
    expected = theirs.forward_features(x).permute(0, 3, 1, 2)
    assert_same(ours(x)[0], expected, CONVERTED)


def test_microsoft_swin_is_read_as_timm_reads_it():
    """Swin's own repository cannot be installed; timm's class takes its files too."""
    theirs = timm_swin()
    official = microsoft_names(timm_swin().state_dict())
    theirs.load_state_dict(checkpoint_filter_fn(official, theirs))
    layout = find_layout(official)
    assert layout.name == 'Microsoft Swin'
    ours = load(our_swin(), to_ours(official))
    dropped = layout.to_ours(official).dropped
    assert set(dropped.values()) == {
        'classification head',
        'computed from the window',
        'computed from the image',
    }
    x = torch.randn(2, 3, 64, 64)
    expected = theirs.forward_features(x).permute(0, 3, 1, 2)
    assert_same(ours(x)[0], expected, CONVERTED)


def test_microsoft_swin_of_a_detector_keeps_its_norms():
    official = microsoft_names(timm_swin().state_dict())
    for part in ('weight', 'bias'):
        official[f'norm2.{part}'] = official.pop(f'norm.{part}')
        for stage in range(2):
            official[f'norm{stage}.{part}'] = torch.randn(DIMS * 2**stage)
    ours = load(our_swin(out_indices=(0, 1, 2)), to_ours(official))
    for name in ('norm0.weight', 'norm1.bias', 'norm2.weight'):
        assert torch.equal(ours.state_dict()[name], official[name])


@pytest.mark.parametrize('image', [(64, 64), (84, 100)])
def test_mmdet_swin_both_ways(image):
    theirs = mmdet_swin()
    assert find_layout(theirs.state_dict()).name == 'mmpretrain'
    ours = our_swin(out_indices=(0, 1, 2), pad_small_map=True)
    load(ours, to_ours(theirs.state_dict()))
    x = torch.randn(2, 3, *image)
    for actual, expected in zip(ours(x), theirs(x)):
        assert_same(actual, expected, CONVERTED)
    randomize(ours)
    weights, dropped = from_ours(ours.state_dict(), 'mmdet')
    assert not dropped
    theirs.load_state_dict(weights, strict=True)
    for actual, expected in zip(theirs(x), ours(x)):
        assert_same(actual, expected, CONVERTED)


@pytest.mark.parametrize('image', IMAGES)
def test_our_swin_in_timm_and_back(image):
    ours = our_swin(out_indices=(0, 1, 2)).state_dict()
    weights, dropped = from_ours(ours, 'timm')
    assert {n for n in dropped if not n.endswith(COMPUTED)} == {
        f'norm{stage}.{part}' for stage in (0, 1) for part in ('weight', 'bias')
    }
    theirs = timm_swin(image, num_classes=0)
    theirs.load_state_dict(weights, strict=True)
    x = torch.randn(2, 3, *image)
    expected = load(our_swin(), {n: ours[n] for n in ours if n not in dropped})(x)[0]
    actual = theirs.forward_features(x).permute(0, 3, 1, 2)
    assert_same(actual, expected, CONVERTED)
    again = to_ours(weights)
    assert set(again) == set(ours) - set(dropped)
    assert all(torch.equal(again[name], ours[name]) for name in again)


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        (dict(), dict()),
        (dict(class_token=False, global_pool=''), dict(with_cls_token=False)),
        (dict(init_values=0.1), dict(layer_scale_init_value=0.1)),
        (dict(pre_norm=True), dict(pre_norm=True)),
        (dict(qkv_bias=False), dict(qkv_bias=False)),
        (dict(img_size=128), dict(img_size=128)),
    ],
    ids=['plain', 'no-class-token', 'layer-scale', 'pre-norm', 'no-qkv-bias', 'large'],
)
def test_timm_vit_both_ways(theirs, ours):
    theirs = timm_vit(**theirs)
    side = ours.get('img_size', 64)
    assert find_layout(theirs.state_dict()).name == 'timm ViT'
    ours = load(our_vit(**ours), to_ours(theirs.state_dict()))
    x = torch.randn(2, 3, side, side)
    assert_same(ours(x)[0], theirs.forward_features(x), CONVERTED)

    weights, dropped = from_ours(randomize(ours).state_dict(), 'timm')
    assert not dropped
    theirs.reset_classifier(0)
    theirs.load_state_dict(weights, strict=True)
    assert_same(theirs.forward_features(x), ours(x)[0], CONVERTED)
    again = to_ours(weights)
    assert set(again) == set(ours.state_dict())
    assert all(torch.equal(again[n], v) for n, v in ours.state_dict().items())


def test_norm_after_pooling_both_ways():
    """Fine-tuned MAE, and timm's models with average pooling."""
    theirs = timm_vit(global_pool='avg')
    ours = our_vit(out_type='avg_featmap', final_norm=False)
    load(ours, to_ours(theirs.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    pooled = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    assert_same(ours(x)[0], pooled, CONVERTED)
    theirs.reset_classifier(0)
    theirs.load_state_dict(from_ours(ours.state_dict(), 'timm').weights, strict=True)
    assert_same(theirs(x), ours(x)[0], CONVERTED)


def test_deit3_has_no_position_for_its_class_token():
    theirs = timm_vit(no_embed_class=True, init_values=0.1)
    ours = our_vit(layer_scale_init_value=0.1)
    load(ours, to_ours(theirs.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    assert_same(ours(x)[0], theirs.forward_features(x), CONVERTED)


def test_deit_by_name():
    theirs = randomize(timm.create_model('deit_tiny_patch16_224', depth=1)).eval()
    arch = dict(embed_dims=192, num_layers=1, num_heads=3, feedforward_channels=768)
    ours = ManifoldKeyViT(arch, img_size=224, patch_size=16, out_type='raw')
    load(ours, to_ours(theirs.state_dict())).train(False)
    x = torch.randn(1, 3, 224, 224)
    assert_same(ours(x)[0], theirs.forward_features(x), CONVERTED)


def test_mae_leaves_its_decoder_behind():
    """MAE's encoder is timm's ViT; its code needs a timm that is long gone."""
    theirs = timm_vit()
    decoder = {f'decoder_{name}': v for name, v in timm_vit().state_dict().items()}
    weights = {
        **{n: v for n, v in theirs.state_dict().items() if not n.startswith('head')},
        **{n: v for n, v in decoder.items() if n.startswith('decoder_blocks.')},
        'mask_token': torch.randn(1, 1, 24),
        'decoder_pos_embed': torch.randn(1, 17, 24),
        'decoder_embed.weight': torch.randn(24, 24),
        'decoder_norm.weight': torch.randn(24),
        'decoder_pred.weight': torch.randn(768, 24),
    }
    layout = find_layout(weights)
    assert layout.name == 'MAE'
    converted, dropped = layout.to_ours(weights)
    assert set(dropped.values()) == {'used in pretraining alone'}
    assert {n for n in weights if 'decoder' in n or 'mask' in n} == set(dropped)
    x = torch.randn(2, 3, 64, 64)
    ours = load(our_vit(), converted)
    assert_same(ours(x)[0], theirs.forward_features(x), CONVERTED)


def test_mmpretrains_mae_is_ours():
    theirs = randomize(MAEViT(VIT, img_size=64, patch_size=16))
    theirs.eval()
    ours = load(our_vit(), to_ours(theirs.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    assert_same(ours(x)[0], theirs(x, mask=None)[0], CONVERTED)


@pytest.mark.parametrize('layout', ['detectron2', 'mmdet'])
@pytest.mark.parametrize('pretrained_side', [4, 8])
def test_vitdet(layout, pretrained_side):
    """Against timm's SAM encoder, the same network under the same names.

    Only its positions differ: ViTDet keeps those of the pretraining, a class token's
    among them, and resizes them when it runs.
    """
    theirs = timm_vit(
        VisionTransformerSAM,
        img_size=128,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
        neck_chans=0,
        num_classes=0,
        norm_layer=lambda dims, **kwargs: nn.LayerNorm(dims, eps=1e-6, **kwargs),
    )
    theirs.neck = nn.Identity()
    grid = torch.randn(1, 24, pretrained_side, pretrained_side)
    positions = F.interpolate(grid, (8, 8), mode='bicubic', align_corners=False)
    theirs.pos_embed.data = positions.permute(0, 2, 3, 1)
    weights = dict(theirs.state_dict())
    class_position = torch.randn(1, 1, 24)
    weights['pos_embed'] = torch.cat(
        [class_position, grid.flatten(2).transpose(1, 2)], dim=1
    )
    if layout == 'detectron2':
        weights = {f'net.{name}': value for name, value in weights.items()}
        weights['simfp_2.0.weight'] = torch.randn(24, 12, 2, 2)
    assert find_layout(weights).name == 'ViTDet'
    ours = our_vit(
        img_size=128,
        with_cls_token=False,
        out_type='featmap',
        final_norm=False,
        window_size=3,
        global_attn_indexes=(1,),
        use_rel_pos=True,
    )
    load(ours, to_ours(weights))
    x = torch.randn(2, 3, 128, 128)
    assert_same(ours(x)[0], theirs.forward_features(x), CONVERTED)


@pytest.mark.parametrize(
    ('make', 'key'), [(our_swin, 'SpatialK'), (our_vit, 'VanillaK')]
)
@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('target', ['timm', 'mmdet'])
def test_manifold_keys_stay(make, key, residual, target):
    weights = make(key=dict(type=key, residual=residual)).state_dict()
    assert find_layout(weights).name == 'mmpretrain'
    with pytest.raises(ValueError, match=f'a manifold key, which {target} has no'):
        from_ours(weights, target)


@pytest.mark.parametrize(
    ('kwargs', 'target', 'message'),
    [
        (dict(), 'mmdet', 'a ViT, and mmdet has Swin only'),
        (dict(), 'mmseg', "one of 'timm', 'mmdet'; got 'mmseg'"),
        (dict(out_type='avg_featmap'), 'timm', 'a place for one of them'),
        (
            dict(with_cls_token=False, use_rel_pos=True),
            'timm',
            'timm ViT has no place for 6 of the weights, such as layers.0.*rel_pos_h',
        ),
    ],
)
def test_weights_without_a_place_there(kwargs, target, message):
    with pytest.raises(ValueError, match=message):
        from_ours(our_vit(**kwargs).state_dict(), target)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda: timm_vit(qk_norm=True),
            r'our ViT has no place for 12 of the weights, such as blocks.0.attn.q_norm',
        ),
        (
            lambda: timm_vit(VisionTransformerDistilled),
            'no place for a distillation token',
        ),
    ],
)
def test_weights_without_a_place_here(make, message):
    with pytest.raises(ValueError, match=message):
        to_ours(make().state_dict())


def test_own_and_unknown_names_are_left_as_they_are():
    own = randomize(MMPretrainSwin(SWIN, window_size=4, out_indices=(2,))).state_dict()
    unknown = {'encoder.conv.weight': torch.ones(1), 'blocks.0.scale': torch.ones(1)}
    assert find_layout(unknown) is None
    for weights in (own, unknown, {}):
        left = to_ours(weights)
        assert left.keys() == weights.keys()
        assert all(left[name] is weights[name] for name in weights)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_pretrained_backbone_reads_timms_files(tmp_path, prefix):
    for ours, theirs in [(our_swin(), timm_swin()), (our_vit(), timm_vit())]:
        weights = theirs.state_dict()
        torch.save({f'{prefix}{n}': v for n, v in weights.items()}, tmp_path / 'w.pth')
        PretrainedBackbone(str(tmp_path / 'w.pth'))(ours)
        for name, value in to_ours(weights).items():
            assert torch.equal(ours.state_dict()[name], value), name
