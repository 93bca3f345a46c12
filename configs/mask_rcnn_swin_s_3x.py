# Mask R-CNN, Swin-S with the stock linear key: the baseline, schedule 3x.
_base_ = './mask_rcnn_swin_t_3x.py'

model = dict(backbone=_base_.swin_s)
