# Cascade Mask R-CNN with 4conv1fc heads and GIoU loss on Swin-T, schedule 3x with
# multi-scale crop and AMP. mmdet's ConvNeXt-T has the heads and pipeline of Swin's own
# repository; optimiser and warm-up are Swin's.
_base_ = [
    'mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py',  # noqa: E501
    './swin.py',
]
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
custom_hooks = [dict(type='mmmanikey.EpochSeedHook')]
default_hooks = dict(checkpoint=dict(type='mmmanikey.WholeCheckpointHook'))

model = dict(backbone=dict(_delete_=True, **_base_.swin_t))
optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        bias_decay_mult=0.0,
        norm_decay_mult=0.0,
        custom_keys={
            'absolute_pos_embed': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    _base_.param_scheduler[1],
]
