# Cascade Mask R-CNN, Swin-T with the stock linear key: the baseline, schedule 1x.
_base_ = './cascade_mask_rcnn_swin_t_3x.py'

optim_wrapper = dict(type='OptimWrapper')
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile', backend_args=None),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(1333, 800), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ]
    )
)
train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, end=12, milestones=[8, 11], gamma=0.1),
]
