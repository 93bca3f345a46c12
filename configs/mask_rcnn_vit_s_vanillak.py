# Mask R-CNN, ViT-S with VanillaK.
_base_ = './mask_rcnn_vit_s.py'

model = dict(backbone=dict(key=dict(type='VanillaK', num_charts=8)))
