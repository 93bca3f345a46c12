# ImageNet-1K pretraining of ViT-B with KUA.
_base_ = './vit_b_in1k.py'

model = dict(backbone=dict(key=dict(type='KUA', num_charts=8)))
