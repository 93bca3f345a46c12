# Cascade Mask R-CNN, Swin-B with the stock linear key: the baseline, schedule 3x.
_base_ = './cascade_mask_rcnn_swin_t_3x.py'

model = dict(
    backbone=dict(**_base_.swin_b, drop_path_rate=0.3),
    neck=dict(in_channels=_base_.swin_b_channels),
)
