"""The start is the same, whichever of the three frameworks builds the backbone."""

import copy
from importlib import import_module

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import init_default_scope
from oracles import STRATEGIES, randomize
from tiny import vit

from mmmanikey.checkpoint import PretrainedBackbone

NANO = dict(embed_dims=24, depths=[1, 1], num_heads=[2, 4])
FRAMEWORKS = ('mmpretrain', 'mmdet', 'mmseg')


def config(key, residual=False, **kwargs):
    return dict(
        type='mmmanikey.ManifoldKeySwin',
        arch=NANO,
        window_size=4,
        out_indices=(0, 1),
        pad_small_map=True,
        key=key and dict(type=key, residual=residual),
        **kwargs,
    )


def build(framework, cfg):
    models = import_module(f'{framework}.registry').MODELS
    init_default_scope(framework)
    torch.manual_seed(3)
    return models.build(copy.deepcopy(cfg))


@pytest.mark.parametrize('key', [None, *STRATEGIES])
def test_same_weights_in_every_framework(key):
    states = []
    for framework in FRAMEWORKS:
        model = build(framework, config(key))
        model.init_weights()
        states.append(model.state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('key', STRATEGIES)
def test_a_classifiers_own_initialisation_keeps_the_keys_start(key, residual):
    """mmpretrain's config sets every Linear to deviation 0.02 from outside."""
    backbone = config(key, residual=residual)
    head = dict(type='LinearClsHead', num_classes=5, in_channels=48)
    classifier = build(
        'mmpretrain',
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=head,
            init_cfg=[
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ],
        ),
    )
    classifier.init_weights()
    alone = build('mmdet', backbone)
    alone.init_weights()
    for name, parameter in alone.named_parameters():
        inside = classifier.backbone.get_parameter(name)
        if parameter.numel() > 500:
            torch.testing.assert_close(
                inside.std(), parameter.std(), rtol=0.15, atol=1e-6, msg=name
            )


def test_linear_layers_start_as_in_swins_code():
    model = build('mmdet', config('SpatialK'))
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.endswith(('qv.weight', 'proj.weight', 'reduction.weight')):
            assert 0.017 < parameter.std() < 0.023, name
        if name.endswith(('qv.bias', 'proj.bias')):
            assert not parameter.any()


@pytest.mark.parametrize('framework', FRAMEWORKS)
@pytest.mark.parametrize(
    'kind',
    [
        'Pretrained',
        'mmengine.Pretrained',
        PretrainedInit,
        'PretrainedBackbone',
        'mmmanikey.PretrainedBackbone',
        PretrainedBackbone,
    ],
)
def test_pretrained_weights_win_over_the_start(framework, kind, tmp_path):
    source = randomize(build(framework, config('SpatialK')))
    checkpoint = str(tmp_path / 'pretrained.pth')
    state = {f'backbone.{n}': v for n, v in source.state_dict().items()}
    torch.save(dict(state_dict=state), checkpoint)
    init_cfg = dict(type=kind, checkpoint=checkpoint, prefix='backbone.')
    model = build(framework, config('SpatialK', init_cfg=init_cfg))
    model.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_an_override_starts_a_part_after_the_weights(tmp_path):
    """https://mmengine.readthedocs.io/en/latest/advanced_tutorials/initialize.html"""
    source = randomize(build('mmdet', config('SpatialK')))
    path = str(tmp_path / 'pretrained.pth')
    torch.save(source.state_dict(), path)
    override = dict(type='Constant', name='norm0', val=2.0)
    init_cfg = dict(type='Pretrained', checkpoint=path, override=override)
    model = build('mmdet', config('SpatialK', init_cfg=init_cfg))
    model.init_weights()
    assert (model.norm0.weight == 2).all()
    assert torch.equal(model.norm1.weight, source.norm1.weight)


def test_a_second_call_changes_nothing(tmp_path):
    """As of the stock class: positions, too, stay what was loaded."""
    checkpoint = str(tmp_path / 'pretrained.pth')
    source = vit()
    torch.save(source.state_dict(), checkpoint)
    model = vit(init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    model.init_weights()
    model.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
