"""What mmdet's and mmseg's tests ask of their Swin and ViT, asked of ours.

Theirs are tests/test_models/test_backbones/test_swin.py of
https://github.com/open-mmlab/mmdetection, and of
https://github.com/open-mmlab/mmsegmentation the file of the same name and test_vit.py.
Only the type of an exception may be another one.
"""

import pytest
import torch
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

KEY = dict(type='SpatialK', num_charts=2, residual=True)
REFUSED = (TypeError, ValueError)


def swin(**kwargs):
    """With an argument that only their class has."""
    return ManifoldKeySwin(patch_norm=kwargs.pop('patch_norm', True), key=KEY, **kwargs)


def vit(**kwargs):
    return ManifoldKeyViT(num_fcs=2, key=KEY, **kwargs)


def shapes(outputs):
    return [tuple(out.shape) for out in outputs]


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(pretrained=123),
        dict(strides=(2, 2, 2, 2), patch_size=4),
        dict(pretrain_img_size=(224, 224, 224)),
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_arguments_that_swin_refuses(kwargs):
    with pytest.raises(REFUSED):
        swin(**kwargs)


def test_swin_takes_one_side_of_its_images():
    model = swin(pretrain_img_size=(224,), use_abs_pos_embed=True)
    assert model.absolute_pos_embed.shape == (1, 56 * 56, 96)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('size', 'sides'),
    [
        ((512, 512), [(128, 128), (64, 64), (32, 32), (16, 16)]),
        ((511, 511), [(128, 128), (64, 64), (32, 32), (16, 16)]),
        ((112, 137), [(28, 35), (14, 18), (7, 9), (4, 5)]),
    ],
)
@torch.no_grad()
def test_maps_of_swin(size, sides):
    outs = swin()(torch.randn(1, 3, *size))
    dims = (96, 192, 384, 768)
    assert shapes(outs) == [(1, c, *side) for c, side in zip(dims, sides)]


@pytest.mark.slow
@pytest.mark.parametrize(
    'kwargs',
    [dict(pretrain_img_size=224, use_abs_pos_embed=True), dict(patch_norm=False)],
    ids=['absolute positions', 'no norm of patches'],
)
@torch.no_grad()
def test_swin_without_or_with_parts(kwargs):
    model = swin(**kwargs)
    model.init_weights()
    assert shapes(model(torch.randn(1, 3, 224, 224)))[0] == (1, 96, 56, 56)
    has_norm = any(n.startswith('patch_embed.norm') for n in model.state_dict())
    assert has_norm == ('patch_norm' not in kwargs)


def test_all_stages_of_swin_freeze():
    model = swin(frozen_stages=4)
    model.train()
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('with_cp', [False, True])
def test_a_block_keeps_its_shape(with_cp):
    """Of 64 channels, 4 heads and an MLP of 256."""
    sizes = dict(embed_dims=64, depths=(1,), num_heads=(4,), out_indices=(0,))
    block = swin(**sizes, with_cp=with_cp).stages[0].blocks[0]
    assert block.ffn.embed_dims == 64
    assert block.ffn.feedforward_channels == 256
    assert block.attn.w_msa.num_heads == 4
    x = torch.randn(1, 56 * 56, 64, requires_grad=True)
    assert block(x, (56, 56)).shape == x.shape


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(img_size=512.0),
        dict(img_size=(224, 224, 224)),
        dict(out_indices=1.0),
        dict(pretrained=123),
        dict(out_shape='NCL'),
        dict(output_cls_token=True, with_cls_token=False),
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_arguments_that_vit_refuses(kwargs):
    with pytest.raises(REFUSED):
        vit(**kwargs)


def test_what_a_small_vit_refuses():
    model = vit(embed_dims=12, num_layers=1, num_heads=3)
    with pytest.raises(TypeError):
        model.init_weights(pretrained=0)
    with pytest.raises(REFUSED):
        model(torch.randn(3, 30, 30))
    with pytest.raises(TypeError):
        model.resize_pos_embed(torch.randn(1, 196), 512, 512, 224, 224, 'bilinear')


@pytest.mark.slow
@torch.no_grad()
def test_maps_of_vit():
    """Of images as large, larger, smaller and of another shape than its positions."""
    model = vit()
    model.init_weights()
    model.train()
    assert all(m.training for m in model.modules() if isinstance(m, nn.LayerNorm))
    sizes = [(224, 224), (256, 256), (32, 32), (112, 224)]
    for height, width in sizes:
        out = model(torch.randn(1, 3, height, width))[-1]
        assert out.shape == (1, 768, height // 16, width // 16)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(img_size=(224,)),
        dict(img_size=(224, 224)),
        dict(norm_eval=True),
        dict(with_cp=True),
        dict(with_cls_token=False),
        dict(final_norm=True),
        dict(patch_norm=True),
    ],
    ids=lambda kwargs: '-'.join(kwargs),
)
def test_variants_of_vit(kwargs):
    model = vit(embed_dims=48, num_layers=2, num_heads=3, **kwargs)
    model.train()
    out = model(torch.randn(1, 3, 224, 224))[-1]
    assert out.shape == (1, 48, 14, 14)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.training for norm in norms} == {'norm_eval' not in kwargs}
