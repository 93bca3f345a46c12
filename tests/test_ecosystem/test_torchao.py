"""torchao's quantisation of weights, with a key and without.

Without a key the quantised network is that of mmpretrain's own class; with one it is
what the plain formula makes of the same quantised weights.
"""

import copy

import pytest
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from oracles import STRATEGIES, assert_same, plain, randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

quantization = pytest.importorskip('torchao.quantization')
SWIN = dict(
    arch=dict(embed_dims=32, depths=[1, 2], num_heads=[2, 4]),
    window_size=4,
    out_indices=(0, 1),
    drop_path_rate=0.0,
    pad_small_map=True,
)
VIT = dict(
    arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
    img_size=32,
    patch_size=4,
    out_type='raw',
)
FAMILIES = dict(
    swin=(ManifoldKeySwin, SwinTransformer, SWIN),
    vit=(ManifoldKeyViT, VisionTransformer, VIT),
)


def quantized(model):
    model.train(False)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


@torch.no_grad()
@pytest.mark.parametrize('key', [None, *STRATEGIES])
@pytest.mark.parametrize('family', FAMILIES)
def test_int8_weights(family, key):
    cls, stock, settings = FAMILIES[family]
    cfg = key and dict(type=key, num_charts=2)
    if key == 'SpatialK' and family == 'vit':
        cfg['window_size'] = 4
    ours = randomize(cls(**settings, key=cfg), std=0.1)
    if key is None:
        reference = stock(**settings)
        reference.load_state_dict(ours.state_dict())
    else:
        reference = copy.deepcopy(ours)
    images = (
        torch.randn(2, 3, 36, 44) if family == 'swin' else torch.randn(2, 3, 32, 32)
    )
    exact = ours.train(False)(images)
    got = quantized(ours)(images)
    assert any('Int8' in type(p).__name__ for p in ours.parameters())
    want = quantized(reference)
    want = want(images) if key is None else plain(want)(images)
    for one, other, before in zip(got, want, exact, strict=True):
        assert_same(one, other, 1e-5)
        assert not torch.equal(one, before)
