# UperNet on ADE20K, Swin-B with SpatialK.
_base_ = './upernet_swin_b.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
