"""Small backbones, each with the network that it must equal."""

import copy

import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from oracles import STRATEGIES, TOLERANCE, assert_same, plain, randomize

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
