# Mask2Former on ADE20K, Swin-T with SpatialK added to the stock key.
_base_ = __import__('mmseg').__path__[0] + (
    '/.mim/configs/mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py'
)
custom_imports = dict(imports=['mmdet.models', 'mmmanikey'])
custom_hooks = [dict(type='mmmanikey.EpochSeedHook')]
default_hooks = dict(checkpoint=dict(type='mmmanikey.WholeCheckpointHook'))

key = dict(type='SpatialK', num_charts=8, residual=True)
model = dict(backbone=dict(type='mmmanikey.ManifoldKeySwin', key=key))
