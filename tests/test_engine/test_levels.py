"""A neck or head that asks for levels the backbone does not give."""

import pytest
import torch
import zoo
from mmdet.registry import MODELS

from mmmanikey.engine.levels import check_levels

SWIN = dict(type='mmmanikey.ManifoldKeySwin', arch='tiny', out_indices=(0, 1, 2, 3))
VIT = dict(type='mmmanikey.ManifoldKeyViT', arch='deit-small')


@pytest.mark.parametrize('name', [*zoo.ALL, *zoo.TWO_LINES])
def test_the_shipped_configs_fit(name):
    check_levels(zoo.read(name).model)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            dict(backbone=SWIN, neck=dict(in_channels=[256, 512, 1024, 2048])),
            r'neck asks for maps of \[256, .* gives \[96, 192, 384, 768\]: set in_ch',
        ),
        (
            dict(backbone=SWIN, neck=[dict(in_channels=[256] * 4), dict(type='Head')]),
            r'neck asks for maps of \[256, ',
        ),
        (
            dict(
                backbone={**SWIN, 'out_indices': (1, 2, 3)},
                neck=dict(in_channels=[96] * 4),
            ),
            r'gives \[192, 384, 768\]',
        ),
        (
            dict(backbone={**SWIN, 'arch': 'base'}, neck=dict(in_channels=[96, 192])),
            r'gives \[128, 256, 512, 1024\]',
        ),
        (
            dict(backbone=VIT, neck=dict(in_channels=768)),
            r'asks for maps of \[768\] channels, the backbone gives \[384\]',
        ),
        (
            dict(backbone={**VIT, 'out_indices': (2, 5)}, neck=dict(in_channels=384)),
            r'gives \[384, 384\]',
        ),
        (
            dict(
                backbone=SWIN, decode_head=dict(in_channels=[96, 192], in_index=[0, 4])
            ),
            'decode_head asks .* there is no level 4',
        ),
        (
            dict(backbone=SWIN, auxiliary_head=[dict(in_channels=384, in_index=1)]),
            r'auxiliary_head asks for maps of \[384\]',
        ),
        (
            dict(backbone=SWIN, panoptic_head=dict(in_channels=[256, 512, 1024, 2048])),
            r'panoptic_head asks for maps of \[256, 512, 1024, 2048\]',
        ),
        (
            dict(
                backbone={**SWIN, 'arch': 'base'},
                neck=dict(type='GlobalAveragePooling'),
                head=dict(in_channels=768),
            ),
            r'head asks for maps of \[768\] .* gives \[128, 256, 512, 1024\]',
        ),
        (
            dict(backbone=SWIN, neck=dict(type='YOLOV3Neck', in_channels=[96, 192])),
            r'neck asks for maps of \[96, 192\]',
        ),
    ],
)
def test_mismatch(model, message):
    with pytest.raises(ValueError, match=message) as info:
        check_levels(model)
    assert '\n' not in str(info.value)


@pytest.mark.parametrize(
    ('neck', 'levels'),
    [
        (
            dict(
                type='YOLOV3Neck',
                num_scales=3,
                in_channels=[768, 384, 192],
                out_channels=[32, 16, 8],
            ),
            (1, 2, 3),
        ),
        (
            dict(
                type='DilatedEncoder',
                in_channels=768,
                out_channels=16,
                block_mid_channels=8,
                num_residual_blocks=1,
                block_dilations=[2],
            ),
            (0, 1, 2, 3),
        ),
        (
            dict(
                type='CTResNetNeck',
                in_channels=768,
                num_deconv_filters=(8,),
                num_deconv_kernels=(4,),
                use_dcn=False,
            ),
            (2, 3),
        ),
    ],
    ids=['from the last', 'the last', 'the last of two'],
)
def test_necks_that_take_maps_otherwise(neck, levels):
    backbone = {**SWIN, 'out_indices': levels}
    maps = [torch.rand(1, 96 * 2**i, 32 >> i, 32 >> i) for i in levels]
    MODELS.build(neck)(maps)
    check_levels(dict(backbone=backbone, neck=neck))


def test_other_backbones_are_their_own_business():
    for name in ('ResNet', 'mmmanikey.with_keys'):
        check_levels(dict(backbone=dict(type=name), neck=dict(in_channels=[1])))
