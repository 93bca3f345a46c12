"""Backbones of two layers or two stages, with every parameter off its start."""

from oracles import randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT


def swin(key=None, window_size=4, **options):
    arch = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4])
    options = {'pad_small_map': True, 'out_indices': (0, 1), **options}
    model = ManifoldKeySwin(arch, window_size=window_size, key=key, **options)
    return randomize(model, std=0.1).eval()


def vit(key=None, **options):
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    options.setdefault('with_cls_token', False)
    options.setdefault('out_type', 'featmap')
    model = ManifoldKeyViT(arch, img_size=32, patch_size=4, key=key, **options)
    return randomize(model, std=0.1).eval()
