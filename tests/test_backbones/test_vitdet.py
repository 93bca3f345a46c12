"""The ViT of mmdet's ViTDet and its layer-wise decay: our ViT takes both over.

It is a project of mmdet and in no package: ``vitdet.py`` stands for it.
"""

import pages
import pytest
import torch
import vitdet
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmpretrain.models import ViTSAM
from oracles import assert_same, randomize
from test_spellings import KEYS, assert_same_maps, defaults
from torch import nn

from mmmanikey.backbones import ManifoldKeyViT
from mmmanikey.backbones.spellings import defaults_of
from mmmanikey.backbones.vit_spellings import from_vitdet

NANO = dict(img_size=64, patch_size=8, embed_dim=12, depth=3, num_heads=3)
NANO |= dict(mlp_ratio=2, window_size=3, window_block_indexes=(0, 2))
NANO |= dict(pretrain_img_size=40)
#: The backbone of its config vitdet_mask-rcnn_vit-b-mae_lsj-100e.py, with fewer layers.
VITDET_B = dict(
    img_size=1024,
    patch_size=16,
    embed_dim=768,
    depth=3,
    num_heads=12,
    drop_path_rate=0.1,
    window_size=14,
    mlp_ratio=4,
    qkv_bias=True,
    norm_cfg=dict(type='LN', requires_grad=True),
    window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],
    use_rel_pos=True,
)


def pair(key=None, **kwargs):
    """The ViT of mmdet's ViTDet, and ours with its weights."""
    stock = randomize(vitdet.ViT(**kwargs), std=0.05).eval()
    ours = ManifoldKeyViT(key=key, **kwargs)
    ours.init_weights()
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all('.key.' in name for name in result.missing_keys)
    return stock, ours.eval()


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(use_rel_pos=True),
        dict(use_rel_pos=True, use_abs_pos=False),
        dict(pretrain_use_cls_token=False, qkv_bias=False, in_chans=4),
        dict(window_size=0, use_rel_pos=True, act_cfg=dict(type='ReLU')),
    ],
    ids=lambda kwargs: '-'.join(kwargs) or 'defaults',
)
@pytest.mark.parametrize('key', KEYS[:4], ids=lambda key: key and key['type'])
def test_every_argument_has_its_meaning(key, kwargs):
    stock, ours = pair(key, **{**NANO, **kwargs})
    for size in ((64, 64), (72, 56)):
        x = torch.randn(2, kwargs.get('in_chans', 3), *size)
        assert isinstance(ours(x), torch.Tensor)
        assert_same_maps(ours, stock, x)


def test_the_backbone_of_its_config():
    stock, ours = pair(KEYS[4], **VITDET_B)
    assert_same_maps(ours, stock, torch.randn(1, 3, 256, 320))


def test_rates_of_drop_path():
    stock, ours = pair(**{**NANO, 'drop_path_rate': 0.2})
    for theirs, own in zip(stock.blocks, ours.layers):
        rate = pytest.approx(theirs.drop_path.drop_prob)
        assert own.attn.out_drop.drop_prob == own.ffn.dropout_layer.drop_prob == rate


def test_the_function_has_the_arguments_of_its_class():
    named = {n: d for n, d in defaults(vitdet.ViT).items() if n != 'init_cfg'}
    assert named == defaults_of(from_vitdet)


#: (Our stand-in's part of a name, that of mmpretrain's ViTSAM)
NAMES = (
    ('mlp.fc1.', 'ffn.layers.0.0.'),
    ('mlp.fc2.', 'ffn.layers.1.'),
    ('blocks.', 'layers.'),
    ('.norm', '.ln'),
    ('patch_embed.proj', 'patch_embed.projection'),
)


@pytest.mark.parametrize('use_rel_pos', [False, True])
def test_what_stands_for_vitdet_is_that_network(use_rel_pos):
    """mmpretrain has it under other names, and for segmentation."""
    kwargs = {**NANO, 'pretrain_img_size': 64, 'use_rel_pos': use_rel_pos}
    stock = pair(**kwargs)[0]
    weights = stock.state_dict()
    for theirs, named in NAMES:
        weights = {name.replace(theirs, named): v for name, v in weights.items()}
    weights['pos_embed'] = weights['pos_embed'][:, 1:].unflatten(1, (8, 8))
    sam = ViTSAM(
        dict(
            embed_dims=12,
            num_layers=3,
            num_heads=3,
            feedforward_channels=24,
            global_attn_indexes=[1],
        ),
        img_size=64,
        patch_size=8,
        out_channels=0,
        window_size=3,
        norm_cfg=dict(type='LN', eps=1e-6),
        use_rel_pos=use_rel_pos,
    )
    sam.load_state_dict(weights)
    sam.train(False)
    assert_same_maps(stock, sam, torch.randn(2, 3, 64, 64))


def test_relative_positions_of_other_images_in_float64():
    """They are resized without leaving it."""
    stock, ours = pair(**{**NANO, 'use_rel_pos': True, 'use_abs_pos': False})
    x = torch.randn(1, 3, 96, 80, dtype=torch.float64)
    assert_same(ours.double()(x), stock.double()(x), 1e-12)


def test_positions_are_those_of_its_pretraining():
    """Of 40 pixels, and resized to each image; relative ones are those of 64."""
    model = ManifoldKeyViT(use_rel_pos=True, **NANO)
    assert model.pos_embed.shape == (1, 25, 12)
    windowed, everywhere = (model.layers[i].attn for i in (0, 1))
    assert windowed.rel_pos_h.shape == (5, 4)
    assert everywhere.rel_pos_h.shape == (15, 4)
    drawn = ManifoldKeyViT(use_rel_pos=True, rel_pos_zero_init=False, **NANO)
    assert drawn.layers[0].attn.rel_pos_w.any()
    assert not windowed.rel_pos_w.any()


#: Of its configs.
DECAY = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimizerConstructor',
    optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
    paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=3),
)


def rates(backbone, cfg):
    """The learning rate of each parameter of a backbone, and of a head."""
    model = nn.Module()
    model.backbone, model.head = backbone, nn.Linear(2, 2)
    optimizer = build_optim_wrapper(model, cfg).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: round(group['lr'], 6)
        for group in optimizer.param_groups
        for parameter in group['params']
    }


def test_layer_decay(tmp_path):
    """Its constructor finds no layer of ours; the page's config finds all."""
    (block,) = (b.text for b in pages.blocks('inherit.md') if b.language == 'py')
    base = tmp_path / block.split("'")[1]
    base.parent.mkdir(parents=True)
    backbone = dict(type='ViT', use_rel_pos=True, **{**NANO, 'window_size': 14})
    base.write_text(f'model = dict(backbone={backbone})\noptim_wrapper = {DECAY}\n')
    (tmp_path / 'three_lines.py').write_text(block)
    cfg = Config.fromfile(tmp_path / 'three_lines.py')
    ours = MODELS.build(cfg.model.backbone)
    assert type(ours.layers[0].attn.key).__name__ == 'SpatialK'
    theirs = dict(DECAY, constructor=vitdet.LayerDecayOptimizerConstructor)
    missed = rates(ours, theirs)
    assert {missed[name] for name in missed if '.layers.' in name} == {1.0}
    found = rates(ours, cfg.optim_wrapper)
    assert found['backbone.layers.0.attn.key.scale'] == round(0.7**3, 6)
    found = {name: rate for name, rate in found.items() if '.key.' not in name}
    expected = rates(pair(use_rel_pos=True, **NANO)[0], theirs)
    assert {*expected.values()} == {round(0.7**i, 6) for i in range(5)}
    for theirs, named in NAMES:
        expected = {name.replace(theirs, named): r for name, r in expected.items()}
    assert found == expected
