# UperNet on ADE20K, Swin-T with SpatialK.
_base_ = './upernet_swin_t.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
