# ImageNet-1K pretraining of Swin-T with SpatialK.
_base_ = './swin_t_in1k.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
