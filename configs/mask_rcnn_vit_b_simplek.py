# Mask R-CNN, ViT-B with SimpleK.
_base_ = './mask_rcnn_vit_b.py'

model = dict(backbone=dict(key=dict(type='SimpleK', num_charts=8)))
