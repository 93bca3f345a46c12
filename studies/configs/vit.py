# A ViT of five layers and 12 M multiply-accumulates, with its linear key.
_base_ = './classify.py'
model = dict(
    backbone=dict(
        type='mmmanikey.ManifoldKeyViT',
        arch=dict(embed_dims=48, num_layers=5, num_heads=3, feedforward_channels=192),
        img_size=64,
        patch_size=8,
        with_cls_token=False,
        out_type='avg_featmap',
        drop_path_rate=0.0,
        key=None,
    ),
    head=dict(in_channels=48),
)
