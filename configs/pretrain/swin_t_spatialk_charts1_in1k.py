# Ablation: Swin-T with SpatialK of 1 chart.
_base_ = './swin_t_spatialk_in1k.py'

model = dict(backbone=dict(key=dict(num_charts=1)))
