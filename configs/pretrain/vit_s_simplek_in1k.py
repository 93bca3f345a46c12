# ImageNet-1K pretraining of ViT-S with SimpleK.
_base_ = './vit_s_in1k.py'

model = dict(backbone=dict(key=dict(type='SimpleK', num_charts=8)))
