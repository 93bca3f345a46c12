# Mask R-CNN, ViT-B with KUA.
_base_ = './mask_rcnn_vit_b.py'

model = dict(backbone=dict(key=dict(type='KUA', num_charts=8)))
