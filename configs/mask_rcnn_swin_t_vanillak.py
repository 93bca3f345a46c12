# Mask R-CNN, Swin-T with VanillaK, schedule 1x.
_base_ = './mask_rcnn_swin_t.py'

model = dict(backbone=dict(key=dict(type='VanillaK', num_charts=8)))
