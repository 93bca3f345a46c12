# A Swin of three stages and 12 M multiply-accumulates, with its linear key.
_base_ = './classify.py'
model = dict(
    backbone=dict(
        type='mmmanikey.ManifoldKeySwin',
        arch=dict(embed_dims=24, depths=[2, 2, 2], num_heads=[1, 2, 4]),
        img_size=64,
        window_size=4,
        out_indices=(2,),
        drop_path_rate=0.0,
        key=None,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=96),
)
