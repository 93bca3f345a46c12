# Cascade Mask R-CNN, Swin-S with SpatialK, schedule 3x. The backbone comes from
# configs/pretrain/swin_s_spatialk_in1k.py.
_base_ = './cascade_mask_rcnn_swin_s_3x.py'

model = dict(
    backbone=dict(
        key=dict(type='SpatialK', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/swin_s_spatialk_in1k/epoch_300.pth'),
    )
)
