"""What mmpretrain promises of its Swin and ViT, here with every key.

Its own tests of both classes hold the same of the linear key: custom architectures, the
schedule of drop path, how positions start, norms in eval mode, kinds of output.
"""

import contextlib

import pytest
import tiny
import torch
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from oracles import STRATEGIES

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.backbones.checks import arch_settings

KEYS = [None, *STRATEGIES]
FAMILIES = 'swin', 'vit'
POSITIONS = dict(swin='absolute_pos_embed', vit='pos_embed')


def make(family, key, **options):
    cfg = key and dict(type=key, num_charts=2)
    if key == 'SpatialK' and family == 'vit':
        cfg['window_size'] = 4
    return getattr(tiny, family)(cfg, **options)


def blocks_of(model):
    if isinstance(model, ManifoldKeyViT):
        return list(model.layers)
    return [block for stage in model.stages for block in stage.blocks]


@pytest.mark.parametrize('key', KEYS)
def test_a_swin_is_built_as_its_arch_says(key):
    arch = dict(embed_dims=8, depths=[1, 3, 2], num_heads=[2, 4, 8])
    settings = dict(window_size=4, out_indices=(2,))
    model = ManifoldKeySwin(arch, key=key and dict(type=key), **settings)
    assert [len(stage.blocks) for stage in model.stages] == [1, 3, 2]
    for stage, width, heads in zip(model.stages, (8, 16, 32), (2, 4, 8), strict=True):
        assert stage.embed_dims == width
        for i, block in enumerate(stage.blocks):
            attention = block.attn.w_msa
            assert (attention.embed_dims, attention.num_heads) == (width, heads)
            assert type(attention.key).__name__ == (key or 'NoneType')
            assert block.ffn.feedforward_channels == 4 * width
            assert block.attn.shift_size == (2 if i % 2 else 0)


@pytest.mark.parametrize('key', KEYS)
def test_a_vit_is_built_as_its_arch_says(key):
    arch = dict(embed_dims=12, num_layers=3, num_heads=4, feedforward_channels=20)
    cfg = key and dict(type=key)
    model = ManifoldKeyViT(arch, img_size=32, patch_size=8, key=cfg)
    assert len(model.layers) == 3
    for layer in model.layers:
        assert (layer.attn.embed_dims, layer.attn.num_heads) == (12, 4)
        assert type(layer.attn.key).__name__ == (key or 'NoneType')
        assert layer.ffn.feedforward_channels == 20


@pytest.mark.parametrize(
    ('cls', 'names'),
    [(ManifoldKeySwin, ('t', 'T', 'Tiny')), (ManifoldKeyViT, ('b', 'B', 'Base'))],
)
def test_named_archs_have_short_names_in_any_case(cls, names):
    settings = [arch_settings(cls, name) for name in (*names, names[-1].lower())]
    assert all(setting == settings[0] for setting in settings)


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', FAMILIES)
def test_drop_path_grows_by_the_same_step(family, key):
    """From zero in the first block to the whole rate in the last, on both branches."""
    blocks = blocks_of(make(family, key, drop_path_rate=0.2))
    swin = family == 'swin'
    for block, rate in zip(blocks, torch.linspace(0, 0.2, len(blocks)), strict=True):
        attention = block.attn.drop if swin else block.attn.out_drop
        for drop in (attention, block.ffn.dropout_layer):
            if rate == 0:
                assert getattr(drop, 'drop_prob', 0.0) == 0
            else:
                assert drop.drop_prob == pytest.approx(rate.item())


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', FAMILIES)
def test_a_given_initialisation_is_used_and_positions_are_drawn(family, key):
    """Positions are zeros until then; the key keeps the start of its own."""
    options = dict(init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    if family == 'swin':
        options.update(use_abs_pos_embed=True, img_size=32)
    arch = tiny_arch(family)
    cls = dict(swin=ManifoldKeySwin, vit=ManifoldKeyViT)[family]
    cfg = key and dict(type=key, num_charts=2)
    if family == 'vit':
        options.update(img_size=32, patch_size=8)
    model = cls(arch, key=cfg, **options)
    positions = getattr(model, POSITIONS[family])
    assert not positions.any()
    with contextlib.redirect_stdout(None):
        model.init_weights()
    assert (model.patch_embed.projection.weight == 0.5).all()
    assert 0.01 < positions.std() < 0.03
    if key:
        attention = blocks_of(model)[0].attn
        attention = attention.w_msa if family == 'swin' else attention
        assert attention.key.conv1.weight.std() > 0


def tiny_arch(family):
    if family == 'swin':
        return dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2])
    return dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)


@pytest.mark.parametrize('norm_eval', [False, True])
@pytest.mark.parametrize('key', KEYS)
def test_norm_eval_keeps_batch_norms_in_eval_mode(key, norm_eval):
    batch_norm = dict(type='BN')
    model = make(
        'swin',
        key,
        norm_eval=norm_eval,
        norm_cfg=batch_norm,
        stage_cfgs=dict(block_cfgs=dict(norm_cfg=batch_norm)),
    ).train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) > 8
    assert all(norm.training != norm_eval for norm in norms)
    assert model.stages[0].training


@pytest.mark.parametrize('out_type', ['featmap', 'avg_featmap', 'cls_token', 'raw'])
@pytest.mark.parametrize('key', KEYS)
def test_kinds_of_output_of_a_vit_at_any_size(key, out_type):
    """One network, sizes in turn, two layers counted from the last."""
    model = make(
        'vit', key, with_cls_token=True, out_type=out_type, out_indices=[-2, -1]
    )
    for height, width in [(32, 32), (40, 40), (40, 53)]:
        rows, cols = -(-height // 4), -(-width // 4)
        shape = dict(featmap=(8, rows, cols), raw=(1 + rows * cols, 8))
        outs = model(torch.randn(2, 3, height, width))
        assert isinstance(outs, tuple)
        assert len(outs) == 2
        assert all(out.shape == (2, *shape.get(out_type, (8,))) for out in outs)
