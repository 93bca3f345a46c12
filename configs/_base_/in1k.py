# ImageNet-1K pretraining: what ours has besides mmpretrain's recipe. A recipe has
# entries of these names already, so each config puts its own in their place.
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
seed_hook = dict(type='mmmanikey.EpochSeedHook')
whole_checkpoints = dict(
    checkpoint=dict(type='mmmanikey.WholeCheckpointHook', max_keep_ckpts=3)
)
# Without the scope that mmpretrain's scripts do not know.
plain_visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
