# Cascade Mask R-CNN, Swin-L (windows of 12, ImageNet-22K) with SpatialK added to the
# stock key, schedule 3x.
_base_ = './cascade_mask_rcnn_swin_t_3x.py'

model = dict(
    backbone=dict(
        **_base_.swin_l, key=dict(type='SpatialK', num_charts=8, residual=True)
    ),
    neck=dict(in_channels=_base_.swin_l_channels),
)
