# Ablation: Swin-T with SpatialK of 4 charts.
_base_ = './swin_t_spatialk_in1k.py'

model = dict(backbone=dict(key=dict(num_charts=4)))
