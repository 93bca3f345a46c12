# ImageNet-1K pretraining of ViT-S with SpatialK.
_base_ = './vit_s_in1k.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
