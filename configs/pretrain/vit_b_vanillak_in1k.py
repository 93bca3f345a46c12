# ImageNet-1K pretraining of ViT-B with VanillaK.
_base_ = './vit_b_in1k.py'

model = dict(backbone=dict(key=dict(type='VanillaK', num_charts=8)))
