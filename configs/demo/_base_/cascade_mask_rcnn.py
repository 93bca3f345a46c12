# Cascade Mask R-CNN in place of Mask R-CNN: three box heads at rising overlap.
_base_ = './mask_rcnn.py'

roi_head = _base_.model.roi_head
rcnn = _base_.model.train_cfg.rcnn
model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            {
                **roi_head.bbox_head,
                'reg_class_agnostic': True,
                'bbox_coder': dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[center, center, size, size],
                ),
            }
            for center, size in [(0.1, 0.2), (0.05, 0.1), (0.033, 0.067)]
        ],
    ),
    train_cfg=dict(
        rcnn=[
            {
                **rcnn,
                'assigner': {
                    **rcnn.assigner,
                    'pos_iou_thr': overlap,
                    'neg_iou_thr': overlap,
                    'min_pos_iou': overlap,
                    'match_low_quality': False,
                },
            }
            for overlap in (0.5, 0.6, 0.7)
        ]
    ),
)
