# Find and segment digits; the backbone starts from what pretraining wrote.
_base_ = [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    './common.py',
    '../../_base_/runtime.py',
]
max_epochs = 4
data_root = _base_.digits_root + 'detection/'
metainfo = dict(classes=_base_.classes)

# Digits are 24 to 60 pixels in images of 128: four levels, an anchor per level, and a
# fraction of COCO's proposals and channels.
channels = 64
model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.nano_swin,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='mmmanikey.PretrainedBackbone'),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, num_outs=4),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=channels
        ),
        bbox_head=dict(
            in_channels=channels,
            fc_out_channels=256,
            num_classes=10,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=channels
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=32,
            num_classes=10,
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=50),
        rcnn=dict(max_per_img=20),
    ),
)

# No flips: a mirrored digit is another sign.
load_image = dict(type='LoadImageFromFile')
load_annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        pipeline=[load_image, load_annotations, dict(type='PackDetInputs')],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        pipeline=[
            load_image,
            dict(type='Resize', scale=(128, 128), keep_ratio=True),
            load_annotations,  # in the image's own size, in which they are drawn
            dict(
                type='PackDetInputs',
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3, fused=True), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=4)
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(type='mmmanikey.WholeCheckpointHook', max_keep_ckpts=1),
)
randomness = dict(seed=0)
