"""The shipped Swin configs: built, run, and optimised as they say."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTORS = [
    'mask_rcnn_swin_t',
    'mask_rcnn_swin_t_spatialk',
    'mask_rcnn_swin_t_spatialk_warmstart',
]
PRETRAINING = ['pretrain/swin_t_spatialk_in1k']


def load(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg):
    model = copy.deepcopy(cfg.model)
    model.backbone.pop('init_cfg', None)
    if 'data_preprocessor' in cfg:  # as mmengine's Runner does
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(model)


def detection_batch():
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        1, [(3, 96, 128)], num_items=[3], num_classes=80, with_mask=True
    )


@pytest.mark.parametrize('name', DETECTORS)
def test_every_parameter_of_a_detector_gets_a_gradient(name):
    """DistributedDataParallel stops at one that does not."""
    detector = build(load(name))
    data = detector.data_preprocessor(detection_batch(), training=True)
    losses, _ = detector.parse_losses(detector(**data, mode='loss'))
    losses.backward()
    assert torch.isfinite(losses)
    assert not [n for n, p in detector.named_parameters() if p.grad is None]


@pytest.mark.parametrize('name', DETECTORS)
def test_empty_ground_truth(name):
    detector = build(load(name))
    batch = detection_batch()
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    data = detector.data_preprocessor(batch, training=True)
    losses, _ = detector.parse_losses(detector(**data, mode='loss'))
    losses.backward()
    assert torch.isfinite(losses)
    assert not [n for n, p in detector.named_parameters() if p.grad is None]


@pytest.mark.parametrize('name', PRETRAINING)
def test_every_parameter_of_a_classifier_gets_a_gradient(name):
    from mmpretrain.structures import DataSample

    classifier = build(load(name))
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    inputs = dict(
        inputs=[torch.randint(0, 255, (3, 224, 224))] * 2, data_samples=samples
    )
    data = classifier.data_preprocessor(inputs, training=True)
    losses, _ = classifier.parse_losses(classifier(**data, mode='loss'))
    losses.backward()
    assert not [n for n, p in classifier.named_parameters() if p.grad is None]


@pytest.mark.parametrize('name', [*DETECTORS, *PRETRAINING])
def test_weight_decay(name):
    """None on scales, biases, norms and position tables; 0.05 on every weight."""
    cfg = load(name)
    model = build(cfg)
    names = {id(p): n for n, p in model.named_parameters()}
    optim_wrapper = copy.deepcopy(cfg.optim_wrapper)
    optim_wrapper.setdefault('type', 'OptimWrapper')
    optimizer = build_optim_wrapper(model, optim_wrapper).optimizer
    decays = {
        names[id(p)]: group['weight_decay']
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert decays.keys() == set(names.values())
    assert any(n.endswith('.key.scale') for n in decays) == ('spatialk' in name)
    for parameter_name, decay in decays.items():
        free = parameter_name.endswith(
            ('.bias', '.key.scale', 'relative_position_bias_table')
        ) or any('norm' in part for part in parameter_name.split('.'))
        assert decay == (0 if free else 0.05), parameter_name


def test_what_each_variant_states():
    baseline, spatial, warm = (load(name).model.backbone for name in DETECTORS)
    assert 'key' not in baseline
    assert spatial.key == warm.key == dict(type='SpatialK', num_charts=8)
    assert not spatial.get('key_residual')
    assert warm.key_residual
    assert warm.init_cfg.checkpoint == baseline.init_cfg.checkpoint
    pretraining = load('pretrain/swin_t_spatialk_in1k')
    assert pretraining.model.backbone.key == spatial.key
    assert pretraining.train_cfg.max_epochs == 300
    assert spatial.init_cfg.checkpoint == 'work_dirs/swin_t_spatialk_in1k/epoch_300.pth'


@pytest.mark.parametrize('name', [*DETECTORS, *PRETRAINING])
def test_only_deltas(name):
    """A variant inherits; it does not copy."""
    text = (CONFIGS / f'{name}.py').read_text()
    assert len(text.splitlines()) <= 30
    assert '_base_ = ' in text
