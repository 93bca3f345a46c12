# Mask R-CNN, ViT-B with SpatialK.
_base_ = './mask_rcnn_vit_b.py'

model = dict(backbone=dict(key=dict(type='SpatialK', num_charts=8)))
