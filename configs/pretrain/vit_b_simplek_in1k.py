# ImageNet-1K pretraining of ViT-B with SimpleK.
_base_ = './vit_b_in1k.py'

model = dict(backbone=dict(key=dict(type='SimpleK', num_charts=8)))
