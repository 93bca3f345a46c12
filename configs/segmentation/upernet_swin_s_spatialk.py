# UperNet on ADE20K, Swin-S with SpatialK.
_base_ = './upernet_swin_s.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
