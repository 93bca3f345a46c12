# Cascade Mask R-CNN, Swin-L (windows of 12, ImageNet-22K) with SpatialK added to the
# stock key, schedule 3x.
_base_ = './cascade_mask_rcnn_swin_t_3x.py'

key = dict(type='SpatialK', num_charts=8, residual=True)
model = dict(
    backbone=dict(**_base_.swin_l, drop_path_rate=0.3, key=key),
    neck=dict(in_channels=_base_.swin_l_channels),
)
