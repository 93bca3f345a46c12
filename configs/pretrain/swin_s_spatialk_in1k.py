# ImageNet-1K pretraining of Swin-S with SpatialK.
_base_ = './swin_s_in1k.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
