# Mask R-CNN, Swin-T with SpatialK, schedule 3x.
_base_ = './mask_rcnn_swin_t_3x.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
