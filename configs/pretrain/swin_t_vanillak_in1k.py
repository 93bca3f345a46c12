# ImageNet-1K pretraining of Swin-T with VanillaK.
_base_ = './swin_t_in1k.py'

model = dict(backbone=dict(key=dict(type='VanillaK', num_charts=8)))
