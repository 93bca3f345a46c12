# Mask R-CNN, Swin-B with SpatialK, schedule 1x. The backbone comes from
# configs/pretrain/swin_b_spatialk_in1k.py.
_base_ = './mask_rcnn_swin_b.py'

model = dict(
    backbone=dict(
        key=dict(type='SpatialK', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/swin_b_spatialk_in1k/epoch_300.pth'),
    )
)
