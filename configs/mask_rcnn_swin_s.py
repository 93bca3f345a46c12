# Mask R-CNN, Swin-S with the stock linear key: the baseline, schedule 1x.
_base_ = './mask_rcnn_swin_t.py'

model = dict(backbone=_base_.swin_s)
