"""The ``init_cfg`` of stock configs: loads as PretrainedBackbone, or is refused."""

import logging

import pytest
import torch
from mmdet.models.backbones import SwinTransformer
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.models import build_segmentor
from oracles import randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import CheckpointError

NANO = dict(embed_dims=12, depths=(1, 1), num_heads=(2, 3), out_indices=(0, 1))
NANO |= dict(window_size=4, convert_weights=True)
VIT = dict(embed_dims=12, num_layers=1, num_heads=3, img_size=32, patch_size=8)
OFFICIAL = (
    ('stages.', 'layers.'),
    ('attn.w_msa.', 'attn.'),
    ('ffn.layers.0.0.', 'mlp.fc1.'),
    ('ffn.layers.1.', 'mlp.fc2.'),
    ('patch_embed.projection.', 'patch_embed.proj.'),
)


def official(**kwargs):
    """A classifier's weights as Swin's authors name them."""
    stock = randomize(SwinTransformer(**{**NANO, **kwargs}))
    weights = {n: v for n, v in stock.state_dict().items() if n[:5] not in NORMS}
    for ours, theirs in OFFICIAL:
        weights = {name.replace(ours, theirs): v for name, v in weights.items()}
    dims = stock.num_features[-1]
    return {**weights, 'norm.weight': torch.rand(dims), 'norm.bias': torch.rand(dims)}


NORMS = ('norm0', 'norm1')


@pytest.fixture
def swin_file(tmp_path):
    torch.save(dict(model=official()), tmp_path / 'swin.pth')
    return str(tmp_path / 'swin.pth')


@pytest.fixture
def vit_file(tmp_path):
    weights = randomize(ManifoldKeyViT(**VIT)).state_dict()
    torch.save(weights, tmp_path / 'vit.pth')
    return str(tmp_path / 'vit.pth')


def started(cls, file=None, **kwargs):
    if file:
        kwargs['init_cfg'] = dict(type='Pretrained', checkpoint=file)
    model = cls(**kwargs)
    model.init_weights()
    return model


@pytest.mark.parametrize('by', ['init_cfg', 'pretrained'])
def test_it_loads_with_the_table(swin_file, by):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    key = dict(type='SpatialK', residual=True)
    if by == 'init_cfg':
        model = started(ManifoldKeySwin, swin_file, key=key, **NANO)
    else:
        model = started(ManifoldKeySwin, pretrained=swin_file, key=key, **NANO)
    logger.removeHandler(handler)
    weights = torch.load(swin_file)['model']
    name = 'blocks.0.attn'
    expected = weights[f'layers.0.{name}.qkv.weight']
    assert torch.equal(model.stages[0].blocks[0].attn.w_msa.qkv.weight, expected)
    (table,) = (r for r in records if r.startswith('pretrained backbone from'))
    assert 'Microsoft Swin layout' in table
    assert 'residual keys that are not in the file start at zero: all 2' in table
    assert 'misshapen' in table


def test_the_classifiers_norm_is_not_that_of_a_map(swin_file):
    """As in mmdet and mmseg; in mmpretrain's spelling it is, as in mmpretrain."""
    model = started(ManifoldKeySwin, swin_file, **NANO)
    assert (model.norm1.weight == 1).all()
    assert not model.norm1.bias.any()
    sizes = {name: NANO[name] for name in ('embed_dims', 'depths', 'num_heads')}
    other = started(
        ManifoldKeySwin, swin_file, arch=sizes, window_size=4, out_indices=1
    )
    weight = torch.load(swin_file)['model']['norm.weight']
    assert torch.equal(other.norm1.weight, weight)


def test_the_fifth_stage_of_a_detector_is_in_no_file(tmp_path):
    """It starts anew, alone; one that is there in part is refused."""
    four = dict(depths=(1,) * 4, num_heads=(1, 1, 2, 2), out_indices=(3,))
    file = tmp_path / 'w.pth'
    weights = official(**four)
    torch.save(weights, file)
    five = dict(depths=(1,) * 5, num_heads=(1, 1, 2, 2, 2), strides=(4, 2, 2, 2, 2))
    five = {**NANO, **five, 'out_indices': (3, 4)}
    model = started(ManifoldKeySwin, str(file), **five)
    expected = weights['layers.3.blocks.0.attn.qkv.weight']
    assert torch.equal(model.stages[3].blocks[0].attn.w_msa.qkv.weight, expected)
    weights['layers.4.blocks.0.norm1.weight'] = torch.ones(12 * 16)
    torch.save(weights, file)
    with pytest.raises(CheckpointError, match='lacks or misshapes'):
        started(ManifoldKeySwin, str(file), **five)
    four_in_three = {n: v for n, v in weights.items() if not n.startswith('layers.3')}
    torch.save(four_in_three, file)
    with pytest.raises(CheckpointError, match='lacks or misshapes'):
        started(ManifoldKeySwin, str(file), **{**NANO, **four})


def test_a_prefix_needs_no_dot(tmp_path):
    source = randomize(ManifoldKeySwin(**NANO)).state_dict()
    weights = {f'backbone.{name}': value for name, value in source.items()}
    torch.save(dict(state_dict=weights), tmp_path / 'w.pth')
    for prefix in ('backbone', 'backbone.'):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'))
        init_cfg |= dict(prefix=prefix, map_location='cpu')
        model = ManifoldKeySwin(init_cfg=init_cfg, **NANO)
        model.init_weights()
        assert all(torch.equal(v, source[n]) for n, v in model.state_dict().items())


def test_the_image_encoder_of_a_clip(tmp_path):
    """What mmseg calls Pretrained_Part."""
    source = randomize(ManifoldKeyViT(**VIT)).state_dict()
    weights = {f'image_encoder.{name}': value for name, value in source.items()}
    torch.save({**weights, 'text_encoder.x': torch.ones(2)}, tmp_path / 'w.pth')
    init_cfg = dict(type='Pretrained_Part', checkpoint=str(tmp_path / 'w.pth'))
    model = ManifoldKeyViT(init_cfg=init_cfg, **VIT)
    model.init_weights()
    assert all(torch.equal(v, source[n]) for n, v in model.state_dict().items())


def test_a_segmentor_hands_on_what_it_starts_from(vit_file):
    init_default_scope('mmseg')
    head = dict(type='FCNHead', in_channels=12, channels=4, num_classes=2, num_convs=1)
    model = build_segmentor(
        ConfigDict(
            type='EncoderDecoder',
            pretrained=vit_file,
            backbone=dict(type='mmmanikey.ManifoldKeyViT', **VIT),
            decode_head=dict(**head, norm_cfg=dict(type='BN'), align_corners=False),
        )
    )
    model.init_weights()
    expected = torch.load(vit_file)['pos_embed']
    assert torch.equal(model.backbone.pos_embed, expected)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(embed_dims=24), 'lacks or misshapes'),
        (dict(depths=(1, 2)), 'lacks or misshapes'),
        (dict(key=dict(type='SpatialK')), 'lacks or misshapes .* key'),
    ],
    ids=['other channels', 'other depth', 'a key that is not residual'],
)
def test_another_size_is_refused(swin_file, kwargs, message):
    with pytest.raises(CheckpointError, match=message) as info:
        started(ManifoldKeySwin, swin_file, **{**NANO, **kwargs})
    first, *table = str(info.value).splitlines()
    assert 'loaded' in table[0]
    assert swin_file in first


def test_another_window_is_resized(swin_file):
    model = started(ManifoldKeySwin, swin_file, **{**NANO, 'window_size': 6})
    table = model.stages[0].blocks[0].attn.w_msa.relative_position_bias_table
    source = torch.load(swin_file)['model']
    source = source['layers.0.blocks.0.attn.relative_position_bias_table']
    assert torch.allclose(table[60], source[24], atol=1e-3)  # the centre stays


def test_another_family_is_refused(swin_file, vit_file):
    with pytest.raises(CheckpointError):
        started(ManifoldKeySwin, vit_file, **NANO)
    with pytest.raises(CheckpointError):
        started(ManifoldKeyViT, swin_file, **VIT)


@pytest.mark.parametrize(
    ('cls', 'sizes'), [(ManifoldKeySwin, NANO), (ManifoldKeyViT, VIT)]
)
def test_a_missing_file_is_one_sentence(cls, sizes, tmp_path):
    """When the weights are wanted; a model that is built to be tested wants none."""
    file = str(tmp_path / 'not_there.pth')
    model = cls(pretrained=file, **sizes)
    with pytest.raises(FileNotFoundError) as info:
        model.init_weights()
    assert str(info.value) == f'checkpoint not found: {file}'
    model = cls(init_cfg=dict(type='Pretrained', prefix='backbone.'), **sizes)
    with pytest.raises(CheckpointError, match='has no file to start from'):
        model.init_weights()
