# Cascade Mask R-CNN, Swin-S with SpatialK, schedule 1x.
_base_ = './cascade_mask_rcnn_swin_s.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
