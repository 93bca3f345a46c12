# ViTDet's recipe (https://arxiv.org/abs/2203.16527, Appendix) for plain ViT backbones:
# 1024 px large-scale jitter, 100 epochs, layer decay, LayerNorm in the heads.
_base_ = ['mmdet::common/lsj-100e_coco-instance.py', './vit.py', './runtime.py']
default_hooks = dict(checkpoint=dict(type='mmmanikey.WholeCheckpointHook'))

pixels = (1024, 1024)
# Positions belong to this square, so images are padded to it in training and in test.
# The preprocessor does it: `Pad` in a pipeline would take the square for the image.
square_pad = dict(pad_size_divisor=pixels[0])
vitdet_b = dict(
    **_base_.vit_b,
    img_size=1024,
    with_cls_token=False,
    final_norm=False,
    window_size=14,
    global_attn_indexes=(2, 5, 8, 11),
    use_rel_pos=True,
)
# On patches of 14 pixels every level has 14/16 of the usual stride.
strides_of_14 = [3.5, 7.0, 14.0, 28.0, 56.0]
heads_on_patches_of_14 = dict(
    rpn_head=dict(anchor_generator=dict(strides=strides_of_14)),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=strides_of_14[:4]),
        mask_roi_extractor=dict(featmap_strides=strides_of_14[:4]),
    ),
)
simple_fpn = dict(type='mmmanikey.SimpleFPN', in_channels=768)
layer_norm = dict(type='mmpretrain.LN2d', eps=1e-6)
optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    constructor='mmmanikey.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.7),
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
)
# 25 epochs of a dataset repeated 4 times; the steps stand at 88 and 96 percent
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=True, end=25, milestones=[22, 24], gamma=0.1),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=pixels, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False)  # mmdet's --auto-scale-lr asks for the entry
