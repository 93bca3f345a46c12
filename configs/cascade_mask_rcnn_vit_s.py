# Cascade Mask R-CNN, ViT-S with the stock linear key: the baseline, ViTDet's
# recipe, from the DeiT-S of mmpretrain's zoo.
_base_ = './cascade_mask_rcnn_vit_b.py'

model = dict(backbone=_base_.vit_s, neck=dict(in_channels=384))
