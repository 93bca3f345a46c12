# RTMDet-L, Swin-B with SpatialK added to the stock key, 100 epochs.
_base_ = 'mmdet::rtmdet/rtmdet_l_swin_b_4xb32-100e_coco.py'
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='mmmanikey.EpochSeedHook')]
default_hooks = dict(checkpoint=dict(type='mmmanikey.WholeCheckpointHook'))

key = dict(type='SpatialK', num_charts=8, residual=True)
model = dict(backbone=dict(type='mmmanikey.ManifoldKeySwin', key=key))
