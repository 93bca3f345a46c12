"""Names of transformers and of torchvision: loaded, our backbones equal theirs.

Every parameter is drawn at random, since ones and zeros hide mistakes.
"""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
import transformers
from mmpretrain.models import VisionTransformer as MMPretrainViT
from oracles import assert_same, randomize
from torch import nn
from torchvision.models import SwinTransformer as TorchvisionSwin
from torchvision.models import VisionTransformer as TorchvisionViT

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import PretrainedBackbone, find_layout, to_ours
from mmmanikey.checkpoint.layouts import LAYOUTS

CONVERTED = 1e-5
SWIN = dict(embed_dims=12, depths=[2, 2, 2], num_heads=[2, 3, 4])
VIT = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=96)
#: What transformers 5 calls in memory what it still writes as version 4 did: a part of
#: the name, and the new part, in the order in which they are replaced.
VERSION_5 = (
    (r'attention\.(self|attention)\.(q|k|v)(uery|ey|alue)\.', r'attention.\2_proj.'),
    (r'attention\.self\.(?=relative)', 'attention.relative_position_bias.'),
    (r'attention\.output\.dense', 'attention.o_proj'),
    (r'intermediate\.dense', 'mlp.fc1'),
    (r'output\.dense', 'mlp.fc2'),
)
VIT_OF_VERSION_5 = (*VERSION_5, (r'encoder\.layer\.', 'layers.'))


def renamed(weights, replacements=()):
    """Weights with these parts of their names replaced."""
    weights = dict(weights)
    for old, new in replacements:
        weights = {re.sub(old, new, name): value for name, value in weights.items()}
    return weights


def load(ours, weights, folder):
    """Load into our backbone from a file, which must bring exactly its parameters."""
    path = folder / 'weights.pth'
    torch.save(weights, path)
    coverage = PretrainedBackbone(str(path)).load(ours)
    assert not coverage.missing
    assert not coverage.unexpected
    return ours.train(False)


def our_swin(**kwargs):
    return ManifoldKeySwin(SWIN, window_size=4, **{'out_indices': (2,), **kwargs})


def our_vit(cls=ManifoldKeyViT, eps=1e-6, **kwargs):
    norm_cfg = dict(type='LN', eps=eps)
    settings = dict(img_size=64, patch_size=16, out_type='raw', norm_cfg=norm_cfg)
    return cls(VIT, **{**settings, **kwargs})


def swin_config(**kwargs):
    sizes = dict(embed_dim=12, depths=[2, 2, 2], num_heads=[2, 3, 4], window_size=4)
    return transformers.SwinConfig(image_size=64, **sizes, **kwargs)


def vit_config(config=transformers.ViTConfig, **kwargs):
    sizes = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2)
    if not config.__name__.startswith('Dinov2'):
        sizes['intermediate_size'] = 96  # DINOv2 has a ratio, which is 4
    return config(image_size=64, patch_size=16, **sizes, **kwargs)


def drawn(model):
    return randomize(model).eval()


@pytest.mark.parametrize('version_5', [False, True])
@pytest.mark.parametrize('qkv_bias', [True, False])
def test_swin_of_transformers(tmp_path, qkv_bias, version_5):
    config = swin_config(qkv_bias=qkv_bias, num_labels=5)
    theirs = drawn(transformers.SwinForImageClassification(config))
    weights = renamed(theirs.state_dict(), VERSION_5 if version_5 else ())
    bias = dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=qkv_bias)))
    ours = load(our_swin(stage_cfgs=bias), weights, tmp_path)
    x = torch.randn(2, 3, 64, 64)
    expected = theirs.swin(x).last_hidden_state.transpose(1, 2).unflatten(2, (4, 4))
    assert_same(ours(x)[0], expected, CONVERTED)


def test_absolute_positions_of_transformers_swin(tmp_path):
    theirs = drawn(transformers.SwinModel(swin_config()))
    # version 4 makes them for a class token as well, and then cannot add them
    theirs.embeddings.position_embeddings = nn.Parameter(torch.randn(1, 256, 12))
    ours = our_swin(img_size=64, use_abs_pos_embed=True)
    load(ours, theirs.state_dict(), tmp_path)
    x = torch.randn(2, 3, 64, 64)
    expected = theirs(x).last_hidden_state.transpose(1, 2).unflatten(2, (4, 4))
    assert_same(ours(x)[0], expected, CONVERTED)


@pytest.mark.parametrize('version_5', [None, 'saved', 'in memory'])
def test_swin_backbone_of_transformers(tmp_path, version_5):
    """Its norms of every output; version 5 keeps SwinModel's final norm besides."""
    stages = ['stage1', 'stage2', 'stage3']
    theirs = drawn(transformers.SwinBackbone(swin_config(out_features=stages)))
    weights = dict(theirs.state_dict())
    if version_5 == 'in memory':
        weights = renamed(weights, [*VERSION_5, (r'^(?=e)', 'swin.')])
    if version_5:
        final = {f'swin.layernorm.{p}': torch.randn(48) for p in ('weight', 'bias')}
        weights = {**final, **weights}
    ours = load(our_swin(out_indices=(0, 1, 2)), weights, tmp_path)
    # it shifts also where the map is a single window, as the others do not
    x = torch.randn(2, 3, 128, 128)
    for actual, expected in zip(ours(x), theirs(x).feature_maps, strict=True):
        assert_same(actual, expected, CONVERTED)


@pytest.mark.parametrize('version_5', [False, True])
@pytest.mark.parametrize('qkv_bias', [True, False])
def test_vit_of_transformers(tmp_path, qkv_bias, version_5):
    config = vit_config(qkv_bias=qkv_bias)
    theirs = drawn(transformers.ViTForImageClassification(config))
    weights = renamed(theirs.state_dict(), VIT_OF_VERSION_5 if version_5 else ())
    ours = our_vit(eps=config.layer_norm_eps, qkv_bias=qkv_bias)
    load(ours, weights, tmp_path)
    x = torch.randn(2, 3, 64, 64)
    assert_same(ours(x)[0], theirs.vit(x).last_hidden_state, CONVERTED)


@pytest.mark.parametrize(
    ('make', 'left_out'),
    [
        (
            lambda: transformers.ViTModel(vit_config()),
            {'pooler.dense.weight': 'classification head'},
        ),
        (
            lambda: transformers.ViTForMaskedImageModeling(vit_config()).vit,
            {'embeddings.mask_token': 'used in pretraining alone'},
        ),
        (
            lambda: transformers.SwinModel(swin_config(), use_mask_token=True),
            {'embeddings.mask_token': 'used in pretraining alone'},
        ),
        (
            lambda: TorchvisionSwin([4, 4], 12, [2], [2], [4, 4]),
            {
                'head.weight': 'classification head',
                'features.1.0.attn.relative_position_index': 'computed from the window',
            },
        ),
    ],
)
def test_what_is_left_out(make, left_out):
    weights = make().state_dict()
    dropped = find_layout(weights).to_ours(weights).dropped
    assert {name: dropped.get(name) for name in left_out} == left_out


def test_mae_of_transformers(tmp_path):
    config = vit_config(
        transformers.ViTMAEConfig,
        mask_ratio=0.0,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
    )
    theirs = drawn(transformers.ViTMAEForPreTraining(config))
    ours = our_vit(eps=config.layer_norm_eps)
    load(ours, theirs.state_dict(), tmp_path)
    x, in_order = torch.randn(2, 3, 64, 64), torch.arange(16.0).expand(2, -1)
    expected = theirs.vit(x, noise=in_order).last_hidden_state
    assert_same(ours(x)[0], expected, CONVERTED)


@pytest.mark.parametrize('version_5', [False, True])
def test_dinov2_of_transformers(tmp_path, version_5):
    theirs = drawn(transformers.Dinov2Model(vit_config(transformers.Dinov2Config)))
    weights = renamed(theirs.state_dict(), VERSION_5 if version_5 else ())
    ours = load(our_vit(layer_scale_init_value=1.0), weights, tmp_path)
    x = torch.randn(2, 3, 64, 64)
    assert_same(ours(x)[0], theirs(x).last_hidden_state, CONVERTED)


@pytest.mark.parametrize('version_5', [False, True])
def test_swiglu_of_dinov2s_giant(tmp_path, version_5):
    """Into mmpretrain's stock ViT, which has our names."""
    config = vit_config(transformers.Dinov2Config, use_swiglu_ffn=True)
    theirs = drawn(transformers.Dinov2Model(config))
    weights = renamed(theirs.state_dict(), VERSION_5 if version_5 else ())
    if version_5:
        weights = renamed(weights, [('weights_out', 'down_proj')])
        for name in [name for name in weights if 'weights_in' in name]:
            gate, up = weights.pop(name).chunk(2)
            weights[name.replace('weights_in', 'up_proj')] = up
            weights[name.replace('weights_in', 'gate_proj')] = gate
    stock = our_vit(
        MMPretrainViT,
        layer_scale_init_value=1.0,
        layer_cfgs=dict(ffn_type='swiglu_fused'),
    )
    load(stock, weights, tmp_path)
    x = torch.randn(2, 3, 64, 64)
    assert_same(stock(x)[0], theirs(x).last_hidden_state, CONVERTED)


def test_registers_of_dinov2():
    """They stand between the class token and the patches, without positions."""
    config = vit_config(transformers.Dinov2WithRegistersConfig, num_register_tokens=3)
    theirs = drawn(transformers.Dinov2WithRegistersModel(config))
    weights = to_ours(theirs.state_dict())
    registers = weights.pop('register_tokens')
    assert registers.shape == (1, 3, 24)
    ours = our_vit(layer_scale_init_value=1.0).train(False)
    ours.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, 64, 64)
    x, hw_shape = ours.patch_embed(images)
    x = torch.cat([ours.cls_token.expand(2, -1, -1), x], dim=1) + ours.pos_embed
    x = torch.cat([x[:, :1], registers.expand(2, -1, -1), x[:, 1:]], dim=1)
    for layer in ours.layers:
        x = layer(x, hw_shape)
    assert_same(ours.ln1(x), theirs(images).last_hidden_state, CONVERTED)


@pytest.mark.parametrize('image', [(64, 64), (128, 192)])
def test_swin_of_torchvision(tmp_path, image):
    theirs = drawn(
        TorchvisionSwin([4, 4], 12, [2, 2, 2], [2, 3, 4], [4, 4], num_classes=5)
    )
    ours = load(our_swin(), theirs.state_dict(), tmp_path)
    x = torch.randn(2, 3, *image)
    expected = theirs.norm(theirs.features(x)).permute(0, 3, 1, 2)
    assert_same(ours(x)[0], expected, CONVERTED)


@pytest.mark.parametrize(
    'mlp', [(), [('mlp.0', 'mlp.linear_1'), ('mlp.3', 'mlp.linear_2')]]
)
def test_vit_of_torchvision(tmp_path, mlp):
    theirs = drawn(TorchvisionViT(64, 16, 3, 2, 24, 96, num_classes=5))
    weights = renamed(theirs.state_dict(), mlp)
    ours = load(our_vit(), weights, tmp_path)
    x = torch.randn(2, 3, 64, 64)
    tokens = theirs._process_input(x)
    tokens = torch.cat([theirs.class_token.expand(2, -1, -1), tokens], dim=1)
    assert_same(ours(x)[0], theirs.encoder(tokens), CONVERTED)


@pytest.mark.parametrize(
    ('name', 'make'),
    [
        ('swin_t', partial(ManifoldKeySwin, 'tiny')),
        ('swin_s', partial(ManifoldKeySwin, 'small')),
        ('swin_b', partial(ManifoldKeySwin, 'base')),
        ('vit_b_16', partial(ManifoldKeyViT, 'base', patch_size=16)),
        ('vit_b_32', partial(ManifoldKeyViT, 'base', patch_size=32)),
        ('vit_l_16', partial(ManifoldKeyViT, 'large', patch_size=16)),
    ],
)
def test_architectures_of_torchvision(name, make):
    """Names and shapes. The meta device takes no time, but builds no Swin of ours."""
    with torch.device('meta'):
        theirs = torchvision.models.get_model(name)
    with torch.device('cpu' if name.startswith('swin') else 'meta'):
        ours = make()
    converted = {n: value.shape for n, value in to_ours(theirs.state_dict()).items()}
    assert converted == {n: value.shape for n, value in ours.named_parameters()}


def test_every_layout_is_documented():
    page = Path(__file__).parents[2].joinpath('docs/warm_start.md').read_text()
    rows = re.findall(r'^\| ([\w ]+?) \|', page, re.MULTILINE)
    assert [layout.name for layout in LAYOUTS] == [
        row for row in rows if row in {layout.name for layout in LAYOUTS}
    ]


def test_patch_embeddings_are_named():
    """By these names a backbone is found below the prefix of a larger model."""
    for layout, weights in (
        ('transformers Swin', transformers.SwinModel(swin_config())),
        ('transformers ViT', transformers.ViTModel(vit_config())),
        ('torchvision Swin', TorchvisionSwin([4, 4], 12, [2], [2], [4, 4])),
        ('torchvision ViT', TorchvisionViT(32, 16, 1, 2, 24, 48)),
    ):
        found = find_layout(weights.state_dict())
        assert found.name == layout
        assert found in LAYOUTS
        assert weights.state_dict()[found.patch_embedding].dim() == 4
