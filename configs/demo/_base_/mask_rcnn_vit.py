# Find and segment digits in ViTDet's way: a plain ViT with windows and relative
# positions, and a pyramid from its last map. Patches of 8 pixels give strides 2 to 16.
_base_ = './mask_rcnn.py'

strides = [2, 4, 8, 16]
model = dict(
    data_preprocessor=dict(pad_size_divisor=128),  # positions belong to this square
    backbone=dict(
        _delete_=True,
        **_base_.nano_vit,
        img_size=128,
        out_type='featmap',
        final_norm=False,
        window_size=8,
        global_attn_indexes=(2, 5),
        use_rel_pos=True,
        init_cfg=dict(type='mmmanikey.PretrainedBackbone'),
    ),
    neck=dict(
        _delete_=True,
        type='mmmanikey.SimpleFPN',
        in_channels=96,
        out_channels=64,
        num_outs=4,
    ),
    rpn_head=dict(anchor_generator=dict(scales=[8], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=strides),
        mask_roi_extractor=dict(featmap_strides=strides),
    ),
)

max_epochs = 2
warm_up, cosine = _base_.param_scheduler
param_scheduler = [warm_up, {**cosine, 'T_max': max_epochs}]
train_cfg = dict(max_epochs=max_epochs)
