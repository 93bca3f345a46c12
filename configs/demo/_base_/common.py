# What pretraining and its heirs share: the data, and a Swin of 2.3 million parameters
# with the key that this demo is about. Windows of 4x4 tokens fit both image sizes.
digits_root = 'data/digits/'
data_command = 'python tools/data/make_digits.py'
classes = tuple('0123456789')
nano_swin = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch=dict(embed_dims=32, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16]),
    window_size=4,
    pad_small_map=True,
    drop_path_rate=0.0,
    key=dict(type='SpatialK', num_charts=8),
)
# A plain ViT of the same size, on patches of 8 pixels.
nano_vit = dict(
    type='mmmanikey.ManifoldKeyViT',
    arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=192),
    patch_size=8,
    with_cls_token=False,
    key=dict(type='VanillaK', num_charts=8, hidden_ratio=0.25),
)
