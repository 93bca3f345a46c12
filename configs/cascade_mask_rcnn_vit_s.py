# Cascade Mask R-CNN, ViT-S with the stock linear key: the baseline, ViTDet's
# recipe, from the DeiT-S of mmpretrain's zoo.
_base_ = './cascade_mask_rcnn_vit_b.py'

deit_s = 'mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth'
model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint=_base_.zoo + deit_s)),
    neck=dict(in_channels=384),
)
