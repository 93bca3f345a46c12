"""Layer-wise decay: multipliers per parameter, against a table written by hand."""

from importlib import import_module

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

RATE = 0.7
WRAPPER = dict(
    type='OptimWrapper',
    constructor='mmmanikey.LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=RATE),
)
KEY = dict(type='VanillaK', num_charts=2)


def vit(**kwargs):
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    return ManifoldKeyViT(arch, img_size=32, patch_size=8, key=KEY, **kwargs)


def swin(**kwargs):
    arch = dict(embed_dims=8, depths=[1, 2], num_heads=[2, 2])
    return ManifoldKeySwin(arch, window_size=4, out_indices=(0, 1), key=KEY, **kwargs)


class Model(nn.Module):
    """Stands for a detector: a backbone, and something after it."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(8, 3)


def settings(model):
    optimizer = build_optim_wrapper(model, WRAPPER).optimizer
    groups = {group['param_name']: group for group in optimizer.param_groups}
    assert groups.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    return groups


# 2 layers: embeddings are 3 steps below the head, layers 2 and 1, the rest 0
VIT_TABLE = {
    'backbone.pos_embed': (3, 0.0),
    'backbone.patch_embed.projection.weight': (3, 0.05),
    'backbone.patch_embed.projection.bias': (3, 0.0),
    'backbone.layers.0.ln1.weight': (2, 0.0),
    'backbone.layers.0.ln2.bias': (2, 0.0),
    'backbone.layers.0.attn.qv.weight': (2, 0.05),
    'backbone.layers.0.attn.qv.bias': (2, 0.0),
    'backbone.layers.0.attn.key.scale': (2, 0.0),
    'backbone.layers.0.attn.key.conv1.weight': (2, 0.05),
    'backbone.layers.0.attn.key.conv1.bias': (2, 0.0),
    'backbone.layers.0.attn.rel_pos_h': (2, 0.0),
    'backbone.layers.0.attn.gamma1.weight': (2, 0.0),
    'backbone.layers.0.ffn.gamma2.weight': (2, 0.0),
    'backbone.layers.1.attn.key.conv2.weight': (1, 0.05),
    'backbone.layers.1.ffn.layers.0.0.weight': (1, 0.05),
    'backbone.ln1.weight': (0, 0.0),
    'head.weight': (0, 0.05),
    'head.bias': (0, 0.0),
}
# depths [1, 2]: 3 blocks, so the stem is 4 steps below the head
SWIN_TABLE = {
    'backbone.patch_embed.projection.weight': (4, 0.05),
    'backbone.patch_embed.norm.weight': (4, 0.0),
    'backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table': (3, 0.0),
    'backbone.stages.0.blocks.0.attn.w_msa.key.scale': (3, 0.0),
    'backbone.stages.0.blocks.0.attn.w_msa.qv.weight': (3, 0.05),
    'backbone.stages.0.downsample.reduction.weight': (3, 0.05),
    'backbone.stages.1.blocks.0.norm1.bias': (2, 0.0),
    'backbone.stages.1.blocks.1.ffn.layers.1.weight': (1, 0.05),
    'backbone.norm0.weight': (0, 0.0),
    'head.weight': (0, 0.05),
}


@pytest.mark.parametrize(
    ('backbone', 'table'),
    [
        (
            lambda: vit(
                with_cls_token=False,
                out_type='featmap',
                use_rel_pos=True,
                layer_scale_init_value=1e-5,
            ),
            VIT_TABLE,
        ),
        (swin, SWIN_TABLE),
    ],
    ids=['vit', 'swin'],
)
def test_multipliers(backbone, table):
    groups = settings(Model(backbone()))
    for name, (steps, decay) in table.items():
        assert groups[name]['lr'] == pytest.approx(RATE**steps), name
        assert groups[name]['weight_decay'] == pytest.approx(decay), name


def test_class_token_and_frozen_parameters():
    groups = settings(Model(vit(frozen_stages=1)))
    assert 'backbone.cls_token' not in groups
    assert 'backbone.layers.0.ln1.weight' not in groups
    groups = settings(Model(vit()))
    assert groups['backbone.cls_token']['weight_decay'] == 0


def test_registers_are_embeddings():
    groups = settings(Model(vit(num_registers=2)))
    registers = groups['backbone.register_tokens']
    assert registers['lr'] == pytest.approx(RATE**3)
    assert registers['weight_decay'] == 0
    groups = settings(Model(vit(num_registers=2, frozen_stages=0)))
    assert 'backbone.register_tokens' not in groups


def test_what_comes_before_the_blocks_is_the_stem():
    positions = settings(Model(swin(use_abs_pos_embed=True)))
    assert positions['backbone.absolute_pos_embed']['lr'] == pytest.approx(RATE**4)
    assert positions['backbone.absolute_pos_embed']['weight_decay'] == 0
    norm = settings(Model(vit(pre_norm=True)))['backbone.pre_norm.weight']
    assert norm['lr'] == pytest.approx(RATE**3)


@pytest.mark.parametrize('framework', ['mmpretrain', 'mmdet', 'mmseg'])
def test_works_in_every_framework(framework):
    import_module(f'{framework}.engine')
    init_default_scope(framework)
    groups = settings(Model(vit()))
    assert groups['backbone.cls_token']['lr'] == pytest.approx(RATE**3)


def test_the_config_may_decide_otherwise():
    wrapper = dict(
        WRAPPER,
        paramwise_cfg=dict(
            layer_decay_rate=RATE,
            bias_decay_mult=1.0,
            custom_keys={'cls_token': dict(decay_mult=0.5)},
        ),
    )
    optimizer = build_optim_wrapper(Model(vit()), wrapper).optimizer
    groups = {group['param_name']: group for group in optimizer.param_groups}
    assert groups['head.bias']['weight_decay'] == pytest.approx(0.05)
    assert groups['backbone.cls_token']['weight_decay'] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        *(
            ({word: rate}, f'layer_decay_rate must be in .* got {rate!r}')
            for word in ('layer_decay_rate', 'decay_rate')
            for rate in (0, 1.5, -0.1, '0.7')
        ),
        (
            dict(layer_decay_rate=0.7, decay_rate=0.7),
            'layer_decay_rate and decay_rate are the same, give one of them',
        ),
        (
            dict(decay_rate=0.7, decay_type='stage_wise'),
            "decay_type must be 'layer_wise', got 'stage_wise'",
        ),
    ],
)
def test_bad_rates(paramwise, message):
    wrapper = dict(WRAPPER, paramwise_cfg=paramwise)
    with pytest.raises(ValueError, match=message):
        build_optim_wrapper(Model(vit()), wrapper)


def test_a_backbone_without_depths():
    with pytest.raises(TypeError, match='has get_layer_depth; Model has Linear'):
        build_optim_wrapper(Model(nn.Linear(2, 2)), WRAPPER)
