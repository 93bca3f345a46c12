# Mask R-CNN, ViT-S with VanillaK. The backbone comes from
# configs/pretrain/vit_s_vanillak_in1k.py.
_base_ = './mask_rcnn_vit_s.py'

model = dict(
    backbone=dict(
        key=dict(type='VanillaK', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/vit_s_vanillak_in1k/epoch_300.pth'),
    )
)
