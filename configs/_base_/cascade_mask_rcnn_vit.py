# Cascade Mask R-CNN in ViTDet's way: two layers in the RPN, LayerNorm in the heads.
_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', './vitdet_coco.py']

model = dict(
    data_preprocessor=_base_.square_pad,
    backbone=dict(_delete_=True, **_base_.vitdet_b),
    neck=dict(_delete_=True, **_base_.simple_fpn),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=[
            dict(
                type='Shared4Conv1FCBBoxHead',
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                norm_cfg=_base_.layer_norm,
                reg_class_agnostic=True,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[center, center, size, size],
                ),
                loss_cls=dict(type='CrossEntropyLoss', loss_weight=1.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            )
            for center, size in [(0.1, 0.2), (0.05, 0.1), (0.033, 0.067)]
        ],
        mask_head=dict(norm_cfg=_base_.layer_norm),
    ),
)
