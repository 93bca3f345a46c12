# Cascade Mask R-CNN, Swin-B with SpatialK, schedule 3x. The backbone comes from
# configs/pretrain/swin_b_spatialk_in1k.py.
_base_ = './cascade_mask_rcnn_swin_b_3x.py'

model = dict(
    backbone=dict(
        key=dict(type='SpatialK', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/swin_b_spatialk_in1k/epoch_300.pth'),
    )
)
