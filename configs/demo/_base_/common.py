# What pretraining and detection share: the data, and a Swin of 2.3 million parameters
# with the key that this demo is about. Windows of 4x4 tokens fit both image sizes.
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
digits_root = 'data/digits/'
data_command = 'python tools/data/make_digits.py'
classes = tuple('0123456789')
pretrain_epochs = 7
nano_swin = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch=dict(embed_dims=32, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16]),
    window_size=4,
    pad_small_map=True,
    drop_path_rate=0.0,
    key=dict(type='SpatialK', num_charts=8),
)
