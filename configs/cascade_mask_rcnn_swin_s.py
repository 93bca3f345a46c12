# Cascade Mask R-CNN, Swin-S with the stock linear key: the baseline, schedule 1x.
_base_ = './cascade_mask_rcnn_swin_t.py'

model = dict(backbone=dict(**_base_.swin_s, drop_path_rate=0.2))
