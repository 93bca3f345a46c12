# Mask R-CNN, ViT-B from DINOv2's weights with SpatialK added to the stock key: ViTDet's
# recipe on patches of 14 pixels.
_base_ = './mask_rcnn_vit_b.py'

model = dict(
    backbone=dict(
        **_base_.vit_b_dinov2, key=dict(type='SpatialK', num_charts=8, residual=True)
    ),
    **_base_.heads_on_patches_of_14,
)
