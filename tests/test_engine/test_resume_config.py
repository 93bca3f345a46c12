"""What ``resume_exactly`` makes of the hooks of a config."""

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmmanikey.engine.resume import resume_exactly


def test_a_config_without_hooks_writes_every_epoch():
    cfg = Config(dict())
    resume_exactly(cfg)
    assert cfg.default_hooks.checkpoint == dict(
        type='mmmanikey.WholeCheckpointHook', interval=1
    )


def test_hooks_are_added_once():
    cfg = Config(dict())
    resume_exactly(cfg)
    once = cfg.to_dict()
    resume_exactly(cfg)
    assert cfg.to_dict() == once
    assert [hook.type for hook in cfg.custom_hooks] == ['mmmanikey.EpochSeedHook']


@pytest.mark.parametrize(
    'name', [CheckpointHook, 'mmengine.CheckpointHook', 'mmengine.hooks.CheckpointHook']
)
def test_a_hook_may_be_named_by_its_class_or_with_its_scope(name):
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type=name))))
    resume_exactly(cfg)
    assert cfg.default_hooks.checkpoint.type == 'mmmanikey.WholeCheckpointHook'


def test_other_hooks_stay():
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook')], default_hooks=dict()))
    cfg.default_hooks.checkpoint = dict(type='Own', interval=5)
    resume_exactly(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='Own', interval=5)
    assert [hook.type for hook in cfg.custom_hooks] == [
        'EMAHook',
        'mmmanikey.EpochSeedHook',
    ]
    foreign = Config(dict(default_hooks=dict(checkpoint=dict(type='o.CheckpointHook'))))
    resume_exactly(foreign)
    assert foreign.default_hooks.checkpoint.type == 'o.CheckpointHook'
    switched_off = Config(dict(default_hooks=dict(checkpoint=None)))
    resume_exactly(switched_off)
    assert switched_off.default_hooks.checkpoint is None
