"""Attention maps: what they show is what the layers compute."""

import pytest
import torch
from mmdet.models import SwinTransformer
from mmpretrain.models import DeiT3, T2T_ViT, VisionTransformer
from mmseg.models import VisionTransformer as MMSegViT
from oracles import TOLERANCE, assert_same, randomize
from tiny import swin, vit

import mmmanikey
from mmmanikey.attention import ManifoldKeyAttention
from mmmanikey.backbones.structure import attention_layers
from mmmanikey.visualization.attention import (
    attention_map,
    layer_windows,
    record_attention,
    softmax_weights,
)
from mmmanikey.visualization.charts import record_charts
from mmmanikey.visualization.layers import record_layers
from mmmanikey.visualization.rollout import attend

SPATIAL = dict(type='SpatialK', num_charts=2)
VANILLA = dict(type='VanillaK', num_charts=2)


CASES = {
    'ViT': (lambda: vit(VANILLA), (32, 32)),
    'ViT with class token': (
        lambda: vit(
            dict(**SPATIAL, window_size=4), with_cls_token=True, out_type='cls_token'
        ),
        (32, 32),
    ),
    'ViT, global positions': (lambda: vit(use_rel_pos=True), (24, 40)),
    'ViT, windows and padding': (
        lambda: vit(dict(**SPATIAL, window_size=3), window_size=3, use_rel_pos=True),
        (28, 32),
    ),
    'Swin': (lambda: swin(SPATIAL), (64, 64)),
    'Swin, padding': (lambda: swin(VANILLA), (40, 72)),
    'Swin, residual key': (lambda: swin(dict(VANILLA, residual=True)), (40, 40)),
    'Swin, stock key, smaller than a window': (lambda: swin(), (8, 24)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, size = CASES[request.param]
    return make(), torch.randn(2, 3, *size)


@pytest.mark.parametrize('number', [0, 1])
@torch.no_grad()
def test_weights_reproduce_the_output_of_the_layer(case, number):
    """Layers 0 and 1 of Swin are without and with shift."""
    backbone, images = case
    layer = attention_layers(backbone)[number]
    outputs = []
    layer.register_forward_hook(lambda *args: outputs.append(args[-1]))
    module, windows = layer_windows(backbone, images, number)
    assert module is layer
    weights = softmax_weights(layer, windows)
    attention = getattr(layer, 'w_msa', layer)
    value = attention.project(windows.tokens.flatten(0, 1), windows.window)[2]
    joined = weights @ value.unflatten(0, weights.shape[:2])
    made = attention.proj(joined.transpose(2, 3).flatten(3))  # (B, windows, N, C)
    out = outputs[0]
    places = windows.places.flatten()
    real = places >= 0
    assert sorted(places[real].tolist()) == list(range(out.shape[1]))
    again = torch.zeros_like(out)
    again[:, places[real]] = made.flatten(1, 2)[:, real]
    assert_same(again, out, TOLERANCE[torch.float32])


@torch.no_grad()
def test_a_query_sees_its_shifted_window_only():
    """Grid 16 x 16, windows of 4, shift 2: token (7, 3) sees rows 6-9, columns 2-5."""
    backbone, images = swin(SPATIAL), torch.randn(1, 3, 64, 64)
    found = record_attention(backbone, images, 1, (7, 3))
    assert found.shape == (1, 2, 16, 16)
    seen = (found > 0).nonzero()
    assert seen[:, 2].unique().tolist() == [6, 7, 8, 9]
    assert seen[:, 3].unique().tolist() == [2, 3, 4, 5]
    assert_same(found.sum(dim=(2, 3)), torch.ones(1, 2), 1e-5)
    # the corner shares a window with other edges, which are masked from it
    corner = record_attention(backbone, images, 1, (0, 0))
    assert (corner[:, :, :2, :2] > 0).all()
    assert corner[:, :, :2, :2].sum() == pytest.approx(2, abs=1e-5)


@torch.no_grad()
def test_mean_is_the_mean_of_all_queries():
    """Of a window, padding excluded; each of 2 x 3 windows of 3 x 3 gives away one."""
    backbone, images = vit(VANILLA, window_size=3), torch.randn(1, 3, 24, 32)
    module, windows = layer_windows(backbone, images, 0)
    weights = softmax_weights(module, windows)
    mean = attention_map(weights, windows, 'mean')
    inside = [(y, x) for y in range(3, 6) for x in range(6, 8)]  # 6 true tokens
    rows = [attention_map(weights, windows, place) for place in inside]
    expected = torch.stack(rows).mean(dim=0)[:, :, 3:6, 6:8]
    assert_same(mean[:, :, 3:6, 6:8], expected, 1e-6)


@torch.no_grad()
def test_class_token_and_default_query():
    backbone = vit(VANILLA, with_cls_token=True, out_type='cls_token')
    images = torch.randn(2, 3, 32, 32)
    module, windows = layer_windows(backbone, images)
    weights = softmax_weights(module, windows)
    expected = weights[:, 0, :, 0, 1:].unflatten(-1, (8, 8))
    assert torch.equal(record_attention(backbone, images), expected)
    center = weights[:, 0, :, 1 + 4 * 8 + 4, 1:].unflatten(-1, (8, 8))
    assert torch.equal(record_attention(backbone, images, query='center'), center)
    plain = vit(VANILLA)
    mean = record_attention(plain, images, query='mean')
    assert torch.equal(record_attention(plain, images), mean)


@torch.no_grad()
@pytest.mark.parametrize('with_cls_token', [True, False])
def test_registers_are_not_on_the_grid(with_cls_token):
    """Nor is one of them taken for a class token."""
    backbone = vit(VANILLA, with_cls_token=with_cls_token, num_registers=3)
    images = torch.randn(2, 3, 32, 32)
    module, windows = layer_windows(backbone, images)
    extra = 3 + with_cls_token
    assert windows.num_extra == extra
    weights = softmax_weights(module, windows)
    center = weights[:, 0, :, extra + 4 * 8 + 4, extra:].unflatten(-1, (8, 8))
    assert torch.equal(record_attention(backbone, images, query='center'), center)
    if with_cls_token:
        expected = weights[:, 0, :, 0, extra:].unflatten(-1, (8, 8))
    else:
        expected = record_attention(backbone, images, query='mean')
        with pytest.raises(ValueError, match='there is none'):
            record_attention(backbone, images, query='cls')
    assert torch.equal(record_attention(backbone, images), expected)


ARCH = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
NETWORKS = {
    "mmpretrain's ViT": (lambda: VisionTransformer(ARCH, 32, 4), 8),
    "mmseg's ViT": (
        lambda: MMSegViT(32, 4, embed_dims=8, num_layers=2, num_heads=2),
        8,
    ),
    "mmdet's Swin": (
        lambda: SwinTransformer(
            embed_dims=8,
            depths=[2, 2],
            num_heads=[2, 4],
            strides=(4, 2),
            window_size=4,
            out_indices=(0, 1),
        ),
        4,
    ),
    'ours': (lambda: vit(), 8),
}


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('key', [SPATIAL, VANILLA])
@torch.no_grad()
def test_inserted_keys(name, key):
    """Maps are those of linear and inserted key together, and charts are found."""
    make, window = NETWORKS[name]
    model, images = make(), torch.randn(1, 3, 32, 32)
    mmmanikey.insert_keys(model, key, example=images, window=window, read='intercept')
    randomize(model, std=0.3)
    model.eval()
    seen = {}
    for number, layer in enumerate(attention_layers(model)):
        layer.register_forward_hook(
            lambda _, args, kwargs, out, number=number: seen.__setitem__(
                number, out - kwargs.get('identity', 0)
            ),
            with_kwargs=True,
        )
    layers = record_layers(model, images)
    assert {layer.number for layer in layers} == seen.keys()
    for layer in layers:
        made = attend(layer, softmax_weights(layer.module, layer.windows))
        assert_same(made, seen[layer.number], 1e-5)
    assert record_charts(model, images).strategy == key['type']
    assert len(mmmanikey.key_state_dict(model)) > 0  # the model has them still


@torch.no_grad()
def test_the_class_token_of_another_vit():
    backbone = DeiT3(ARCH, img_size=32, patch_size=4)
    backbone.eval()
    images = torch.randn(1, 3, 32, 32)
    module, windows = layer_windows(backbone, images)
    weights = softmax_weights(module, windows)
    expected = weights[:, 0, :, 0, 1:].unflatten(-1, (8, 8))
    assert torch.equal(record_attention(backbone, images), expected)


@pytest.mark.parametrize(
    ('layer', 'query', 'message'),
    [
        (2, None, r'layer must be in -2\.\.1, got 2'),
        (0, 'cls', 'there is none'),
        (0, (8, 0), r'query \(8, 0\) is outside the grid of 8 x 8'),
        (0, 'middle', "got 'middle'"),
    ],
)
def test_mistakes(layer, query, message):
    with pytest.raises(ValueError, match=message):
        record_attention(vit(), torch.zeros(1, 3, 32, 32), layer, query)


def test_tokens_are_whole_numbers():
    with pytest.raises(TypeError, match="'float' object cannot be interpreted"):
        record_attention(vit(), torch.zeros(1, 3, 32, 32), 0, (1.5, 2))


def test_foreign_backbone():
    backbone = T2T_ViT(
        img_size=32,
        t2t_cfg=dict(token_dims=8, use_performer=False),
        embed_dims=8,
        num_layers=1,
        layer_cfgs=dict(num_heads=2, feedforward_channels=16),
    )
    with pytest.raises(ValueError, match='T2T_ViT has no attention layer that can be'):
        record_attention(backbone, torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match='Conv2d has no attention layer that can be'):
        record_attention(torch.nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 32, 32))


def test_layers_are_in_order():
    kinds = [type(layer) for layer in attention_layers(vit())]
    assert kinds == [ManifoldKeyAttention] * 2
    blocks = [block for stage in swin().stages for block in stage.blocks]
    assert [layer.shift_size for layer in attention_layers(swin())] == [
        block.attn.shift_size for block in blocks
    ]
