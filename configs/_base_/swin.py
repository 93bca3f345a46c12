# Swin backbones for dense prediction, from the ImageNet weights of their repository.
release = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
swin_t = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch='tiny',
    drop_path_rate=0.2,
    out_indices=(0, 1, 2, 3),
    pad_small_map=True,
    init_cfg=dict(
        type='mmmanikey.PretrainedBackbone',
        stock=release + 'swin_tiny_patch4_window7_224.pth',
    ),
)
# What differs in the larger ones.
swin_s = dict(
    arch='small', init_cfg=dict(stock=release + 'swin_small_patch4_window7_224.pth')
)
swin_b = dict(
    arch='base', init_cfg=dict(stock=release + 'swin_base_patch4_window7_224.pth')
)
swin_b_channels = [128, 256, 512, 1024]
swin_l = dict(
    arch='large',
    window_size=12,
    drop_path_rate=0.3,
    init_cfg=dict(stock=release + 'swin_large_patch4_window12_384_22k.pth'),
)
swin_l_channels = [192, 384, 768, 1536]
# Added to the recipe's exceptions: no decay on biases.
no_decay = dict(bias_decay_mult=0.0)
