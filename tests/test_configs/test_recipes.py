"""What the configs promise beyond being built: optimiser, schedules, empty images."""

import copy

import pytest
import torch
import zoo
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

RECIPES = [
    'mask_rcnn_swin_t',
    'mask_rcnn_swin_t_spatialk_warmstart',
    'mask_rcnn_swin_t_spatialk_3x',
    'cascade_mask_rcnn_swin_t_spatialk',
    'mask_rcnn_vit_s_vanillak',
    'pretrain/swin_t_spatialk_in1k',
    'pretrain/vit_s_kua_in1k',
    'segmentation/upernet_swin_t_spatialk',
    'segmentation/upernet_vit_b_vanillak',
]
POSITIONS = ('relative_position_bias_table', 'pos_embed', 'rel_pos_h', 'rel_pos_w')


def build(cfg):
    model = copy.deepcopy(cfg.model)
    model.backbone.pop('init_cfg', None)
    return revert_sync_batchnorm(MODELS.build(model))


@pytest.mark.parametrize('name', RECIPES)
def test_weight_decay(name):
    """None on scales, biases, norms and positions; the recipe's on every weight."""
    cfg = zoo.shallow(zoo.load(name))
    model = build(cfg)
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm))
        for p in m.parameters()
    }
    names = {id(p): n for n, p in model.named_parameters()}
    optim_wrapper = copy.deepcopy(cfg.optim_wrapper)
    optim_wrapper['type'] = 'OptimWrapper'  # AMP needs a GPU
    optimizer = build_optim_wrapper(model, optim_wrapper).optimizer
    decays = {
        id(p): group['weight_decay']
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert decays.keys() == names.keys()
    has_key = 'key' in cfg.model.backbone
    assert any(n.endswith('.key.scale') for n in names.values()) == has_key
    for parameter, decay in decays.items():
        own = names[parameter]
        free = parameter in norms or own.endswith(
            ('.bias', '.key.scale', 'cls_token', *POSITIONS)
        )
        assert decay == (0 if free else cfg.optim_wrapper.optimizer.weight_decay), own


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['mask_rcnn_swin_t_spatialk', 'cascade_mask_rcnn_vit_s_vanillak']
)
def test_empty_ground_truth(name):
    """An image without objects trains all parameters it can, and stays finite."""
    from mmdet.testing import demo_mm_inputs

    cfg = zoo.shallow(zoo.load(name))
    cfg.model.data_preprocessor.pad_size_divisor = 32
    zoo.fewer_regions(cfg.model)
    detector = build(cfg)
    batch = demo_mm_inputs(
        1, [(3, 96, 128)], num_items=[3], num_classes=80, with_mask=True
    )
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    data = detector.data_preprocessor(batch, training=True)
    losses, _ = detector.parse_losses(detector(**data, mode='loss'))
    losses.backward()
    assert torch.isfinite(losses)
    assert not [n for n, p in detector.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ('name', 'max_epochs', 'milestones', 'lr', 'wrapper'),
    [
        ('mask_rcnn_swin_t', 12, [8, 11], 1e-4, 'OptimWrapper'),
        ('mask_rcnn_swin_b_spatialk', 12, [8, 11], 1e-4, 'OptimWrapper'),
        ('mask_rcnn_swin_s_3x', 36, [27, 33], 1e-4, 'AmpOptimWrapper'),
        ('cascade_mask_rcnn_swin_t', 12, [8, 11], 1e-4, 'AmpOptimWrapper'),
        ('cascade_mask_rcnn_swin_b_3x', 36, [27, 33], 1e-4, 'AmpOptimWrapper'),
        ('mask_rcnn_vit_b_vanillak', 25, [22, 24], 1e-4, 'AmpOptimWrapper'),
        ('cascade_mask_rcnn_vit_s', 25, [22, 24], 1e-4, 'AmpOptimWrapper'),
    ],
)
def test_schedules(name, max_epochs, milestones, lr, wrapper):
    cfg = zoo.load(name)
    assert cfg.train_cfg.max_epochs == max_epochs
    assert cfg.param_scheduler[-1].milestones == milestones
    assert cfg.param_scheduler[-1].get('end') == max_epochs
    assert cfg.optim_wrapper.optimizer.lr == lr
    assert cfg.optim_wrapper.type == wrapper


def test_vitdet_recipe():
    cfg = zoo.load('mask_rcnn_vit_b')
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.7
    assert cfg.model.backbone.img_size == 1024
    assert cfg.train_dataloader.dataset.times * cfg.train_cfg.max_epochs == 100


def test_warm_start_is_the_baseline_plus_a_key():
    for baseline, warm in [
        ('mask_rcnn_swin_t', 'mask_rcnn_swin_t_spatialk_warmstart'),
        ('mask_rcnn_vit_b', 'mask_rcnn_vit_b_vanillak_warmstart'),
    ]:
        stock, ours = (zoo.load(name).model.backbone for name in (baseline, warm))
        key = ours.pop('key')
        assert key.residual
        assert key.num_charts == 8
        ours.pop('init_cfg')
        stock.pop('init_cfg')
        assert ours == stock
