# ImageNet-1K pretraining of Swin-B with SpatialK.
_base_ = './swin_b_in1k.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
