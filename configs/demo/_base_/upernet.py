# Label every pixel with its digit, or none: UperNet on the same pretrained backbone.
_base_ = ['../../_base_/upernet_ade20k.py', './common.py']

max_epochs = 4
names = ('background', *_base_.classes)
batch_norm = dict(type='BN', requires_grad=True)
# mmseg starts the last layer at 0.01, for schedules a hundred times longer than this.
start = dict(type='Normal', std=0.1, override=dict(name='conv_seg'))

data_preprocessor = dict(size=(128, 128))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        **_base_.nano_swin,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='mmmanikey.PretrainedBackbone'),
    ),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        channels=64,
        num_classes=len(names),
        norm_cfg=batch_norm,
        init_cfg=start,
    ),
    auxiliary_head=dict(
        in_channels=128,
        channels=32,
        num_classes=len(names),
        norm_cfg=batch_norm,
        init_cfg=start,
    ),
)

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=_base_.digits_root + 'semantic',
    metainfo=dict(classes=names),
    img_suffix='.png',
    seg_map_suffix='.png',
    reduce_zero_label=False,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='DefaultSampler'),
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=test_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=max_epochs, val_interval=2)
log_processor = dict(by_epoch=True)
default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=1),
)
randomness = dict(seed=0)
