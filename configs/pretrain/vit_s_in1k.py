# ImageNet-1K pretraining of ViT-S with the stock linear key: mmpretrain's DeiT recipe.
_base_ = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
custom_hooks = [dict(type='mmmanikey.EpochSeedHook')]

model = dict(backbone=dict(type='mmmanikey.ManifoldKeyViT'))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'.key.scale': dict(decay_mult=0.0)})
)
default_hooks = dict(
    checkpoint=dict(type='mmmanikey.WholeCheckpointHook', max_keep_ckpts=3)
)
visualizer = dict(  # without the scope that mmpretrain's scripts do not know
    _delete_=True, type='UniversalVisualizer', vis_backends=_base_.vis_backends
)
