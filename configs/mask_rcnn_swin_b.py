# Mask R-CNN, Swin-B with the stock linear key: the baseline, schedule 1x.
_base_ = './mask_rcnn_swin_t.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint=_base_.release + 'swin_base_patch4_window7_224.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
