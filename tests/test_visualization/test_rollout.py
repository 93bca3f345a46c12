"""Rollout in windows is the product of whole matrices."""

import pytest
import torch
from dense_rollout import WINDOW, rolled_out, swin_matrices, vit_matrices
from mmdet.models import SwinTransformer as MMDetSwin
from mmpretrain.models import ImageClassifier, SwinTransformer, VisionTransformer
from mmseg.models import SwinTransformer as MMSegSwin
from mmseg.models import VisionTransformer as MMSegViT
from oracles import assert_same, randomize
from tiny import swin, vit
from torchvision.models import resnet18

from mmmanikey.visualization.attention import record_attention
from mmmanikey.visualization.rollout import rollout

ARCH = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4])
SWINS = {
    'mmpretrain': lambda: SwinTransformer(
        ARCH, window_size=WINDOW, pad_small_map=True, out_indices=(0, 1)
    ),
    'mmdet': lambda: MMDetSwin(
        **ARCH, window_size=WINDOW, out_indices=(0, 1), strides=(4, 2)
    ),
    'mmseg': lambda: MMSegSwin(
        **ARCH, window_size=WINDOW, out_indices=(0, 1), strides=(4, 2)
    ),
}
SIZE = (36, 52)  # grids of 9 x 13 and 5 x 7, which no window and no merging divides


def stock_swin(framework):
    backbone = randomize(SWINS[framework](), std=0.1)
    backbone.eval()  # which gives back None
    return backbone


def class_score(outs):
    return outs[-1][0, 1].mean()


@pytest.mark.parametrize('framework', SWINS)
@pytest.mark.parametrize('score', [None, class_score])
def test_swin(framework, score):
    backbone, image = stock_swin(framework), torch.randn(1, 3, *SIZE)
    found = {
        token: rollout(backbone, image, token, score)
        for token in (None, 'center', (0, 0), (4, 6))
    }
    whole = rolled_out(swin_matrices(backbone, image, score), score)
    assert whole.shape == (5 * 7, 9 * 13)
    assert_same(found[None], whole.mean(dim=0).view(9, 13), 1e-5)
    for token, row in (('center', 2 * 7 + 3), ((0, 0), 0), ((4, 6), -1)):
        assert_same(found[token], whole[row].view(9, 13), 1e-5)
    if score is None:
        assert found[None].sum() == pytest.approx(1, abs=1e-5)
    else:
        assert (found[None] - 1 / 35).abs().max() > 1e-4  # gradients got there


@pytest.mark.parametrize('framework', SWINS)
def test_maps_no_larger_than_a_window(framework):
    """They are padded and shifted in every framework's detectors."""
    backbone, image = stock_swin(framework), torch.randn(1, 3, 16, 24)
    found = rollout(backbone, image, (1, 0))  # grids of 4 x 6 and 2 x 3
    whole = rolled_out(swin_matrices(backbone, image))
    assert_same(found, whole[3].view(4, 6), 1e-5)


def test_padded_queries_that_see_nothing():
    """A shift masks the image from some of the padding by -100, which may be all."""
    for seed in range(10):
        torch.manual_seed(seed)
        backbone = swin(None, window_size=7)
        randomize(backbone, std=0.3)
        found = rollout(backbone.eval(), torch.randn(1, 3, 32, 32))
        assert found.sum() == pytest.approx(1, abs=1e-5)


VITS = {
    'mmpretrain': lambda: VisionTransformer(
        dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16),
        img_size=24,
        patch_size=4,
    ),
    'mmseg': lambda: MMSegViT(24, 4, embed_dims=8, num_layers=3, num_heads=2),
    'mmseg without biases': lambda: MMSegViT(
        24, 4, embed_dims=8, num_layers=3, num_heads=2, qkv_bias=False
    ),
}


@pytest.mark.parametrize('framework', VITS)
@pytest.mark.parametrize('score', [None, class_score])
def test_vit_with_class_token(framework, score):
    backbone = randomize(VITS[framework](), std=0.1)
    backbone.eval()
    image = torch.randn(1, 3, 24, 24)
    found = {
        token: rollout(backbone, image, token, score)
        for token in (None, 'mean', (5, 2))
    }
    whole = rolled_out(vit_matrices(backbone, image, score), score)[:, 1:]
    assert_same(found[None], whole[0].view(6, 6), 1e-5)
    assert_same(found['mean'], whole[1:].mean(dim=0).view(6, 6), 1e-5)
    assert_same(found[5, 2], whole[1 + 5 * 6 + 2].view(6, 6), 1e-5)


MANIFOLD = {
    'Swin': lambda: swin(dict(type='SpatialK', num_charts=2)),
    'Swin computed again': lambda: swin(
        dict(type='KUA', num_charts=2), with_cp=True, frozen_stages=1
    ),
    'ViT in windows': lambda: vit(
        dict(type='VanillaK', num_charts=2), window_size=3, use_rel_pos=True
    ),
}


@pytest.mark.parametrize('name', MANIFOLD)
def test_manifold_keys(name):
    """Against the rows that single queries give."""
    backbone, image = MANIFOLD[name](), torch.randn(1, 3, 32, 32)
    layers = range(4 if 'Swin' in name else 2)
    matrices = []
    for number in layers:
        height = record_attention(backbone, image, number).shape[-1]
        rows = [
            record_attention(backbone, image, number, (y, x))[0].flatten(1)
            for y in range(height)
            for x in range(height)
        ]
        merge = None
        if matrices and matrices[-1][0].shape[1] != height**2:
            fine = 2 * torch.arange(height)
            merge = torch.zeros(height, height, 2 * height, 2 * height)
            for y in range(height):
                for x in range(height):
                    merge[y, x, fine[y] : fine[y] + 2, fine[x] : fine[x] + 2] = 0.25
            merge = merge.flatten(2).flatten(0, 1)
        matrices.append((torch.stack(rows, dim=1), None, merge))
    whole = rolled_out(matrices)
    assert_same(rollout(backbone, image).flatten(), whole.mean(dim=0), 1e-5)
    weighted = rollout(backbone, image, score=class_score)
    assert weighted.shape == (8, 8)
    assert weighted.isfinite().all()
    assert weighted.std() > 0


def test_a_classifier_and_the_score_of_a_class():
    """The whole model runs, and the gradient is that of its head."""
    torch.manual_seed(3)
    model = ImageClassifier(
        backbone=dict(
            type='SwinTransformer', arch=ARCH, window_size=WINDOW, out_indices=(1,)
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
    )
    randomize(model, std=0.1).eval()
    image = torch.randn(1, 3, 64, 64)
    first, second = (
        rollout(model, image, score=lambda scores, n=n: scores[0, n]) for n in (0, 1)
    )
    assert (first - second).abs().max() > 1e-6
    scaled = rollout(model, image, score=lambda scores: 3 * scores[0, 0])
    assert (scaled - first).abs().max() > 1e-6
    assert_same(rollout(model, image), rollout(model.backbone, image), 0)


@pytest.mark.parametrize(
    ('call', 'sentence'),
    [
        (
            lambda: rollout(vit(), torch.zeros(2, 3, 32, 32)),
            'one image, got a batch',
        ),
        (lambda: rollout(vit(), torch.zeros(1, 3, 32, 32), (8, 0)), 'outside the grid'),
        (lambda: rollout(vit(), torch.zeros(1, 3, 32, 32), 'cls'), 'there is none'),
        (
            lambda: rollout(resnet18(), torch.zeros(1, 3, 32, 32)),
            'ResNet has no attention layer that can be read',
        ),
        (
            lambda: rollout(vit(), torch.zeros(1, 3, 32, 32), score=lambda out: out[0]),
            'the score must be a tensor of one number',
        ),
    ],
)
def test_mistakes(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
