# ImageNet-1K pretraining of ViT-S with KUA.
_base_ = './vit_s_in1k.py'

model = dict(backbone=dict(key=dict(type='KUA', num_charts=8)))
