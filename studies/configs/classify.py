# The recipe of all classification runs; chosen on the linear key alone (README.md).
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(
    imports=['mmmanikey', 'studies.compiled', 'studies.data', 'studies.pairing'],
    allow_failed_imports=False,
)
custom_hooks = [dict(type='mmmanikey.EpochSeedHook'), dict(type='CompiledBackbone')]

batch_size = 64
epochs = 3
images_an_epoch = 40000
side = 64  # patches of 4 pixels give Swin 16 x 16 tokens

data_preprocessor = dict(num_classes=10, mean=[72.94] * 3, std=[90.02] * 3)
model = dict(
    type='ImageClassifier',
    data_preprocessor=data_preprocessor,
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1,),
    ),
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # one process a run; its random numbers are seeded every epoch
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='StudyFashionMNIST',
        part='train',
        repeat_to=images_an_epoch,
        pipeline=[
            dict(type='RandomCrop', crop_size=28, padding=2),
            dict(type='RandomFlip', prob=0.5),
            dict(type='Resize', scale=side),
            dict(type='RandomErasing', erase_prob=0.0, mode='const'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='StudyFashionMNIST',
        part='test',
        pipeline=[dict(type='Resize', scale=side), dict(type='PackInputs')],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'relative_position_bias_table': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
            '.key.scale': dict(decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=150),
    dict(
        type='CosineAnnealingLR',
        T_max=epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=epochs)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(type='mmmanikey.WholeCheckpointHook', max_keep_ckpts=1),
)
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
