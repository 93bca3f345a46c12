# Mask2Former, Swin-T with SpatialK added to the stock key: instances, 50 epochs.
_base_ = 'mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py'
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
custom_hooks = [dict(type='mmmanikey.EpochSeedHook')]
default_hooks = dict(checkpoint=dict(type='mmmanikey.WholeCheckpointHook'))

key = dict(type='SpatialK', num_charts=8, residual=True)
model = dict(backbone=dict(type='mmmanikey.ManifoldKeySwin', key=key))
