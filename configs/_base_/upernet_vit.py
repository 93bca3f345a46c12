# UperNet on a plain ViT: a pyramid from the maps of four layers.
_base_ = ['./upernet_ade20k.py', './vit.py']

channels = [768, 768, 768, 768]
model = dict(
    backbone=dict(**_base_.vit_b, img_size=512, out_indices=(2, 5, 8, 11)),
    neck=dict(
        type='MultiLevelNeck',
        in_channels=channels,
        out_channels=768,
        scales=[4, 2, 1, 0.5],
    ),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=768, in_index=3),
)
