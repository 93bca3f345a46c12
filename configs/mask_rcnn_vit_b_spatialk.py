# Mask R-CNN, ViT-B with SpatialK. The backbone comes from
# configs/pretrain/vit_b_spatialk_in1k.py.
_base_ = './mask_rcnn_vit_b.py'

model = dict(
    backbone=dict(
        key=dict(type='SpatialK', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/vit_b_spatialk_in1k/epoch_300.pth'),
    )
)
