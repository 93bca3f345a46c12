"""Blocks of a small Swin, and how tests run them."""

from functools import partial

import torch
from oracles import STRATEGIES, plain, randomize

from mmmanikey.backbones import ManifoldKeySwin
from mmmanikey.forms.swin_block import WholeBlock

KEYS = (None, *STRATEGIES, 'residual')


def make(key=None, window=4, pad=True, **kwargs):
    """The second block of a Swin, which shifts its windows and may drop its paths."""
    if key is not None:
        residual = key == 'residual'
        key = dict(type='VanillaK' if residual else key, num_charts=2)
        key['residual'] = residual
    swin = ManifoldKeySwin(
        dict(embed_dims=16, depths=[2], num_heads=[2]),
        window_size=window,
        key=key,
        drop_path_rate=0.5,  # whose factors are exact in float32
        out_indices=(0,),
        pad_small_map=pad,
        **kwargs,
    )
    return randomize(swin.stages[0].blocks[1]).double()


def seeded(function):
    """Draws the same paths in every call."""

    def call(x):
        torch.manual_seed(0)
        return function(x)

    return call


def off(found, want):
    """How far a tensor is from another, relative to its largest number or to 1."""
    return ((found - want).abs().max() / want.abs().max().clamp(min=1)).item()


def both(block, hw_shape):
    """The block by its modules, and by the form."""
    modules = plain(seeded(lambda x: block(x, hw_shape)))
    return modules, seeded(partial(WholeBlock(), block, hw_shape=hw_shape))
