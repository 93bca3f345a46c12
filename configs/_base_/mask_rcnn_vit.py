# Mask R-CNN in ViTDet's way: two layers in the RPN, LayerNorm in the heads.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './vitdet_coco.py']

model = dict(
    data_preprocessor=_base_.square_pad,
    backbone=dict(_delete_=True, **_base_.vitdet_b),
    neck=dict(_delete_=True, **_base_.simple_fpn),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=_base_.layer_norm,
        ),
        mask_head=dict(norm_cfg=_base_.layer_norm),
    ),
)
