# Swin-T with SpatialK and context broadcasting in the MLPs.
_base_ = './swin_t_spatialk_in1k.py'

model = dict(backbone=dict(context_broadcasting=True))
