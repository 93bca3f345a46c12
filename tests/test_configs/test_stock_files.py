"""Every shipped config that starts from pretrained weights takes what it asks for."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from oracles import randomize
from zoo import DETECTION, SEGMENTATION, load

from mmmanikey.checkpoint import PretrainedBackbone
from mmmanikey.checkpoint.coverage import group_of
from mmmanikey.registry import MODELS

SWIN = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
VIT = dict(embed_dims=8, num_layers=12, num_heads=2, feedforward_channels=16)
#: What ViTDet's configs do without.
NOT_IN_VITDET = {'cls_token', 'ln1.weight', 'ln1.bias'}


def narrow(backbone):
    """The backbone with few channels, as deep as it must be, and its loading."""
    backbone = copy.deepcopy(dict(backbone))
    start = backbone.pop('init_cfg')
    backbone['arch'] = SWIN if 'Swin' in backbone['type'] else VIT
    return backbone, {k: v for k, v in start.items() if k not in ('type', 'stock')}


def is_residual(backbone):
    return (backbone.get('key') or {}).get('residual', False)


def pretrained(backbone):
    """The classifier's backbone that the config's weights come from.

    A residual key starts from the stock network, the paper's form from one of its own.
    """
    kept = {'type', 'arch', 'key', 'window_size', 'context_broadcasting'}
    kept |= {'patch_size', 'layer_scale_init_value'}  # DINOv2's
    if is_residual(backbone):
        kept.discard('key')
    if 'ViT' in backbone['type']:
        kept.discard('window_size')  # of dense prediction
    return MODELS.build({k: v for k, v in backbone.items() if k in kept})


@pytest.mark.parametrize('name', [*DETECTION, *SEGMENTATION])
def test_stock_weights_load(tmp_path, name):
    cfg = load(name)
    init_default_scope('mmmanikey')
    backbone, options = narrow(cfg.model.backbone)
    source = randomize(pretrained(backbone)).state_dict()
    weights = {f'backbone.{name}': value for name, value in source.items()}
    weights['head.layers.head.weight'] = torch.ones(1000, 8)
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'w.pth')
    model = MODELS.build(backbone)
    coverage = PretrainedBackbone(str(tmp_path / 'w.pth'), **options).load(model)
    dense = 'ViT' in backbone['type'] and not backbone.get('with_cls_token', True)
    assert set(coverage.unexpected) == (NOT_IN_VITDET if dense else set())
    assert coverage.dropped.keys() == set(coverage.unexpected)
    taken = {*coverage.loaded, *coverage.resized}
    computed = {name for name in source if name.endswith('relative_position_index')}
    assert taken == source.keys() - set(coverage.unexpected) - computed
    started = {'norms', 'relative positions'}
    if is_residual(backbone):
        started.add('key')
    assert set(map(group_of, coverage.missing)) <= started
