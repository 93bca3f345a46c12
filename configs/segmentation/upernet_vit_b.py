# UperNet on ADE20K, ViT-B with the stock linear key: the baseline, from the DeiT-B of
# mmpretrain's zoo.
_base_ = '../_base_/upernet_ade20k.py'
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
custom_hooks = [dict(type='mmmanikey.EpochSeedHook')]

deit_b = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-base_pt-16xb64_in1k_20220216-db63c16c.pth'  # noqa: E501
channels = [768, 768, 768, 768]
model = dict(
    backbone=dict(
        type='mmmanikey.ManifoldKeyViT',
        arch='deit-base',
        img_size=512,
        drop_path_rate=0.1,
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        init_cfg=dict(type='mmmanikey.PretrainedBackbone', checkpoint=deit_b),
    ),
    neck=dict(
        type='MultiLevelNeck',
        in_channels=channels,
        out_channels=768,
        scales=[4, 2, 1, 0.5],
    ),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=768, in_index=3),
)
