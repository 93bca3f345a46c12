# ImageNet-1K pretraining of ViT-S with VanillaK.
_base_ = './vit_s_in1k.py'

model = dict(backbone=dict(key=dict(type='VanillaK', num_charts=8)))
