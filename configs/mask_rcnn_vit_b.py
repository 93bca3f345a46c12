# Mask R-CNN, ViT-B with the stock linear key: the baseline, ViTDet's recipe, from the
# DeiT-B of mmpretrain's zoo.
_base_ = './_base_/mask_rcnn_vit.py'
