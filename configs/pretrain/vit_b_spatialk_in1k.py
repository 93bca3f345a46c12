# ImageNet-1K pretraining of ViT-B with SpatialK.
_base_ = './vit_b_in1k.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
