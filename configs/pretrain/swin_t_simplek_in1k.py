# ImageNet-1K pretraining of Swin-T with SimpleK.
_base_ = './swin_t_in1k.py'

model = dict(backbone=dict(key=dict(type='SimpleK', num_charts=8)))
