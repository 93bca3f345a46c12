# Cascade Mask R-CNN, ViT-B with VanillaK.
_base_ = './cascade_mask_rcnn_vit_b.py'

model = dict(backbone=dict(key=dict(type='VanillaK', num_charts=8)))
