"""No weight decay on the charts' scales, whichever config and constructor decays."""

import copy

import mmdet.engine  # noqa: F401
import mmpretrain.engine  # noqa: F401
import mmseg.engine  # noqa: F401
import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.models import SwinTransformer
from oracles import STRATEGIES
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin
from mmmanikey.keys import VanillaK
from mmmanikey.registry import KEYS

NANO = dict(embed_dims=8, depths=[1, 1], num_heads=[2, 2])
ADAMW = dict(type='AdamW', lr=1.0, weight_decay=0.05)
#: By the configs of mmdet's Swin, its Mask2Former and mmpretrain's Swin.
PARAMWISE = {
    'none': None,
    'swin': dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
    'mask2former': dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1, decay_mult=1.0),
            'backbone.norm': dict(lr_mult=0.1, decay_mult=0.0),
        },
        norm_decay_mult=0.0,
    ),
    'mmpretrain': dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
}


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(8, 3)

    def get_layer_depth(self, name):
        return self.backbone.get_layer_depth(name, 'backbone.')


def model(key='SpatialK', **options):
    key = dict(type=key, num_charts=2, residual=True, **options)
    return Model(ManifoldKeySwin(NANO, window_size=4, out_indices=(0, 1), key=key))


def settings(model, paramwise_cfg=None, **wrapper):
    """(learning rate, decay) of every parameter that is trained, by name."""
    cfg = dict(type='OptimWrapper', optimizer=ADAMW, **wrapper)
    if paramwise_cfg is not None:
        cfg['paramwise_cfg'] = copy.deepcopy(paramwise_cfg)
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(parameter)], (group['lr'], group['weight_decay']))
        for group in groups
        for parameter in group['params']
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def without_extension(monkeypatch):
    stock = DefaultOptimWrapperConstructor.__call__.__wrapped__
    monkeypatch.setattr(DefaultOptimWrapperConstructor, '__call__', stock)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
@pytest.mark.parametrize('paramwise', PARAMWISE)
@pytest.mark.parametrize('key', STRATEGIES)
def test_only_the_scales_change(key, paramwise, scope, monkeypatch):
    init_default_scope(scope)
    found = settings(model(key), PARAMWISE[paramwise])
    without_extension(monkeypatch)
    expected = settings(model(key), PARAMWISE[paramwise])
    scales = {name for name in expected if name.endswith('.key.scale')}
    assert len(scales) == 2
    assert all(expected[name][1] == 0.05 for name in scales)
    for name in scales:
        expected[name] = (expected[name][0], 0.0)
    assert found == expected


@pytest.mark.parametrize(
    ('scope', 'constructor', 'paramwise'),
    [
        (
            'mmpretrain',
            'LearningRateDecayOptimWrapperConstructor',
            dict(layer_decay_rate=0.5),
        ),
        ('mmseg', 'ForceDefaultOptimWrapperConstructor', dict(norm_decay_mult=0.0)),
        (
            'mmdet',
            'mmmanikey.LayerDecayOptimWrapperConstructor',
            dict(layer_decay_rate=0.5),
        ),
    ],
)
def test_other_constructors(scope, constructor, paramwise):
    init_default_scope(scope)
    found = settings(model(), paramwise, constructor=constructor)
    decay = {name: decay for name, (_, decay) in found.items()}
    assert decay['head.weight'] == 0.05
    scales = [d for name, d in decay.items() if name.endswith('.key.scale')]
    assert scales == [0.0, 0.0]


@pytest.mark.parametrize('custom', ['.key.scale', 'scale'])
def test_a_config_may_say_otherwise(custom):
    paramwise = dict(custom_keys={custom: dict(decay_mult=0.4)})
    found = settings(model(), paramwise)
    scales = [d for name, (_, d) in found.items() if name.endswith('.key.scale')]
    assert scales == [pytest.approx(0.02)] * 2


@pytest.mark.parametrize('paramwise', PARAMWISE)
def test_models_without_such_keys_are_not_touched(paramwise, monkeypatch):
    def optimizer():
        torch.manual_seed(0)
        stock = Model(SwinTransformer(NANO, window_size=4, out_indices=(1,)))
        cfg = dict(type='OptimWrapper', optimizer=ADAMW)
        if PARAMWISE[paramwise] is not None:
            cfg['paramwise_cfg'] = copy.deepcopy(PARAMWISE[paramwise])
        return build_optim_wrapper(stock, cfg).optimizer.state_dict()

    extended = optimizer()
    without_extension(monkeypatch)
    assert extended == optimizer()


def test_frozen_scales_stay_frozen():
    frozen = model()
    for key in (block.attn.w_msa.key for block in frozen.backbone.stages[0].blocks):
        key.requires_grad_(False)
    found = settings(frozen, PARAMWISE['swin'])
    assert [n for n in found if '.key.scale' in n] == [
        'backbone.stages.1.blocks.0.attn.w_msa.key.scale'
    ]


def test_a_model_that_is_wrapped_for_distributed_training():
    wrapped = nn.Module()
    wrapped.module = model()  # as in DistributedDataParallel
    found = settings(wrapped)
    scales = {n: decay for n, (_, decay) in found.items() if n.endswith('key.scale')}
    assert len(scales) == 2  # one a block
    assert set(scales.values()) == {0.0}


def test_a_key_of_a_users_names_its_own():
    @KEYS.register_module(force=True)
    class Weighted(VanillaK):
        free_of_decay = ('scale', 'weights', 'conv1.bias')

        def __init__(self, embed_dims, num_charts=8):
            super().__init__(embed_dims, num_charts)
            self.weights = nn.Parameter(torch.ones(num_charts))

    found = settings(model('Weighted'))
    for name in ('key.weights', 'key.conv1.bias'):
        assert [found[n][1] for n in found if n.endswith(name)] == [0.0, 0.0]


def test_a_step_does_not_decay_them():
    trained = model()
    scale = trained.backbone.stages[0].blocks[0].attn.w_msa.key.scale
    wrapper = build_optim_wrapper(trained, dict(type='OptimWrapper', optimizer=ADAMW))
    for parameter in trained.parameters():
        parameter.grad = torch.zeros_like(parameter)
    wrapper.step()
    assert (scale == 1).all()
    assert not (trained.backbone.stages[0].blocks[0].norm1.weight == 1).any()
