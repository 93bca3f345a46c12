# ImageNet-1K pretraining of Swin-T with SpatialK, mmpretrain's recipe (300 epochs).
_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmmanikey.ManifoldKeySwin', key=dict(type='SpatialK', num_charts=8)
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'.key.scale': dict(decay_mult=0.0)})
)
