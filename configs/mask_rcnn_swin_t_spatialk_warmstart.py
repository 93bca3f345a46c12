# Mask R-CNN, Swin-T with SpatialK added to the stock key, zero at the start: begins as
# the stock network with public ImageNet weights, no pretraining of ours needed.
_base_ = './mask_rcnn_swin_t.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8, residual=True)))
