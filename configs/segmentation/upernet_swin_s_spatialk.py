# UperNet on ADE20K, Swin-S with SpatialK. The backbone comes from
# configs/pretrain/swin_s_spatialk_in1k.py.
_base_ = './upernet_swin_s.py'

model = dict(
    backbone=dict(
        key=dict(type='SpatialK', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/swin_s_spatialk_in1k/epoch_300.pth'),
    )
)
