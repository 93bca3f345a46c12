# DINO with five scales, Swin-L with SpatialK added to the stock key, 12 epochs.
_base_ = 'mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py'
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
custom_hooks = [dict(type='mmmanikey.EpochSeedHook')]
default_hooks = dict(checkpoint=dict(type='mmmanikey.WholeCheckpointHook'))

key = dict(type='SpatialK', num_charts=8, residual=True)
model = dict(backbone=dict(type='mmmanikey.ManifoldKeySwin', key=key))
