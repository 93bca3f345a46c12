"""A classifier small enough to launch for real: its images, its config, and a hook."""

import cv2
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

CONFIG = """
_base_ = {bases!r}
custom_imports = dict(imports=['mmmanikey', 'small_run'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=2, mean=[127.0] * 3, std=[64.0] * 3),
    backbone=dict(
        type='mmmanikey.ManifoldKeySwin',
        arch=dict(embed_dims=8, depths=[1, 1], num_heads=[2, 2]),
        window_size=4,
        key=dict(type='SpatialK', num_charts=2),
        out_indices=(1,),
        pad_small_map=True,
        drop_path_rate=0.0,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=2,
        in_channels=16,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root={images!r},
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=dict(max_norm=0.1)
)
train_cfg = dict(by_epoch=True, max_epochs=2)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1),
)
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
"""


def write_config(folder, name='small.py', bases=()):
    """Write eight images of two classes and the config that trains on them."""
    images = folder / 'images'
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3))
        path = images / str(i % 2) / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels.astype(np.uint8))
    config = folder / name
    config.write_text(CONFIG.format(bases=list(map(str, bases)), images=str(images)))
    return config


@HOOKS.register_module()
class SaveEveryRank(Hook):
    """At the end every rank writes its weights; checkpoints are rank 0's alone."""

    def after_train(self, runner):
        torch.save(
            runner.model.module.state_dict(), f'{runner.work_dir}/rank{runner.rank}.pth'
        )
