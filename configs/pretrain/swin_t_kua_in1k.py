# ImageNet-1K pretraining of Swin-T with KUA.
_base_ = './swin_t_in1k.py'

model = dict(backbone=dict(key=dict(type='KUA', num_charts=8)))
