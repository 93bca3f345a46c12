# Mask R-CNN, Swin-T with the stock linear key: the baseline, schedule 3x with
# multi-scale crop and AMP.
_base_ = [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py',
    './_base_/swin.py',
    './_base_/runtime.py',
]
default_hooks = dict(checkpoint=dict(type='mmmanikey.WholeCheckpointHook'))
model = dict(backbone=dict(_delete_=True, **_base_.swin_t))
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
