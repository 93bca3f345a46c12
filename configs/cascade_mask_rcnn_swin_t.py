# Cascade Mask R-CNN, Swin-T with the stock linear key: the baseline, schedule 1x. All
# else is the 3x schedule's, as in Swin's own repository.
_base_ = './cascade_mask_rcnn_swin_t_3x.py'

model = dict(backbone=dict(drop_path_rate=0.0))
train_cfg = dict(max_epochs=12)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='MultiStepLR', by_epoch=True, end=12, milestones=[8, 11], gamma=0.1),
]
