# Mask R-CNN, ViT-B with KUA. The backbone comes from
# configs/pretrain/vit_b_kua_in1k.py.
_base_ = './mask_rcnn_vit_b.py'

model = dict(
    backbone=dict(
        key=dict(type='KUA', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/vit_b_kua_in1k/epoch_300.pth'),
    )
)
