# Mask R-CNN, Swin-S with the stock linear key: the baseline, schedule 1x.
_base_ = './mask_rcnn_swin_t.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint=_base_.release + 'swin_small_patch4_window7_224.pth'),
    ),
)
