# Mask R-CNN, Swin-T with KUA, schedule 1x.
_base_ = './mask_rcnn_swin_t.py'

model = dict(backbone=dict(key=dict(type='KUA', num_charts=8)))
