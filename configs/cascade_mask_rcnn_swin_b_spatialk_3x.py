# Cascade Mask R-CNN, Swin-B with SpatialK, schedule 3x.
_base_ = './cascade_mask_rcnn_swin_b_3x.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
