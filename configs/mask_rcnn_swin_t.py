# Mask R-CNN with Swin-T and the stock linear key: the baseline.
# Starts from the ImageNet checkpoint that mmdet's own config names.
_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'  # noqa: E501

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmanikey.ManifoldKeySwin',
        arch='tiny',
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
        init_cfg=dict(type='mmmanikey.PretrainedBackbone', checkpoint=pretrained),
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        bias_decay_mult=0.0, custom_keys={'.key.scale': dict(decay_mult=0.0)}
    )
)
