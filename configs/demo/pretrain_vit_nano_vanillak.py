# Classify single digits with a nano ViT, to start a ViTDet-style detector from.
_base_ = './pretrain_swin_nano_spatialk.py'

work_dir = 'work_dirs/demo_vit/pretrain'
model = dict(
    backbone=dict(_delete_=True, **_base_.nano_vit, img_size=64),
    neck=None,
    head=dict(
        _delete_=True, type='VisionTransformerClsHead', num_classes=10, in_channels=96
    ),
)
