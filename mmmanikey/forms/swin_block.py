"""A whole block of Swin for CUDA.

A GPU is faster than what asks it for work: of a training step of Swin-T for 64 images
of 224 px an H200 works half the time, and waits for Python and for autograd's graph in
the other half. So norms, residual sums, drop paths and SpatialK belong to the same
computation as attention and the feed-forward network, see ``block.py``, and all weights
are cast at once.
"""

from typing import ClassVar

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..attention.swin import ManifoldKeyShiftWindowMSA
from ..backbones.blocks import ManifoldKeyBlock
from ..backbones.ffn import FeedForward
from ..keys.spatial import SpatialK
from ..keys.windows import check_grid
from . import triton_choice
from .block import Block
from .choice import Form, find, register
from .gradients import compute
from .norm import ResidualNorm, WindowNorm
from .perceptron import FFN_LAYERS, why_other_ffn
from .pieces import autocast, product_dtype
from .spatial_key import parameters_of
from .token_mixing import TokenMixing
from .window_grid import window_grid
from .windows import FusedWindows, Shape, position_of


def parts_of(block: nn.Module) -> tuple[nn.Module, ...]:
    """Attention, that in windows, feed-forward network and norms."""
    attn = inside(block, 'attn')
    norms = inside(block, 'norm1'), inside(block, 'norm2')
    return attn, inside(attn, 'w_msa'), inside(block, 'ffn'), *norms


def inside(module: nn.Module, name: str) -> nn.Module:
    """A module inside another, in less time than PyTorch's own look-up takes."""
    modules = module._modules
    return modules[name] if name in modules else getattr(module, name)


def drawn(
    layers: tuple[nn.Module, ...], x: Tensor, dtype: torch.dtype
) -> list[Tensor | None]:
    """The factors of drop paths for each image, of the same random numbers as theirs.

    Args:
        layers (tuple[nn.Module, ...]): mmcv's ``DropPath``, or what does nothing.
        x (Tensor): (B, ...).
        dtype (torch.dtype): Of what the layers would be called with.

    Returns:
        list[Tensor | None]: Each (B, 1, 1), float32; None for ones.
    """
    rates = [each.training and getattr(each, 'drop_prob', 0) for each in layers]
    if not any(rates):
        return [None] * len(layers)
    draws = x.new_empty((len(layers), len(x), 1, 1), dtype=dtype)
    for draw, rate in zip(draws, rates):
        if rate:
            draw.uniform_()
    if len({*rates}) == 1:
        return [*factors(draws, rates[0])]
    return [factors(*each) if each[1] else None for each in zip(draws, rates)]


def factors(draws: Tensor, rate: float) -> Tensor:
    """0 for those of the draws that are dropped; others make up for them."""
    keep = 1 - rate
    kept = torch.empty_like(draws, dtype=torch.float32)
    return torch.ge(draws.add_(keep), 1, out=kept).div_(keep)


def mixing_within(
    key: nn.Module | None, x: Tensor
) -> tuple[type[TokenMixing] | None, str, tuple[Tensor | None, ...]]:
    """What computes a SpatialK within a block, its GELU's ``approximate``, and weights.

    Nothing does where it is another key, or other forms serve it.
    """
    if type(key) is SpatialK and key.out.bias is None:
        kind = getattr(find(key, x, None, within=True), 'kind', None)
        if kind is not None:
            return kind, key.act.approximate, (*parameters_of(key), key.out.weight)
    return None, 'none', (None,) * 4


def kinds_of_norms(
    x: Tensor, *weights: Tensor
) -> tuple[type[WindowNorm], type[ResidualNorm]]:
    """What computes a block's norms with these weights."""
    if not triton_choice.runs(x, *weights):
        return WindowNorm, ResidualNorm
    # here, as Triton need not be installed
    from .triton_norm import TritonResidualNorm, TritonWindowNorm

    return TritonWindowNorm, TritonResidualNorm


@register(ManifoldKeyBlock)
class WholeBlock(Form):
    """The block, and its key where that is a SpatialK; other keys are called.

    Autocast's casts are those of all weights, so the gradients of that key's parameters
    are in autocast's dtype before they reach them, as those of every other weight are.
    """

    name = 'whole block'
    replaces: ClassVar = {
        'norm1': nn.LayerNorm,
        'norm2': nn.LayerNorm,
        'attn': ManifoldKeyShiftWindowMSA,
        'attn.drop': (DropPath, nn.Identity),
        'attn.w_msa.qkv': nn.Linear,
        'attn.w_msa.qv': nn.Linear,
        'attn.w_msa.proj': nn.Linear,
        'attn.w_msa.proj_drop': nn.Dropout,
        'attn.w_msa.key.out': nn.Linear,
        'ffn': FeedForward,
        'ffn.layers.2': nn.Dropout,
        'ffn.gamma2': nn.Identity,
        'ffn.dropout_layer': (DropPath, nn.Identity),
        **{f'attn.{path}': each for path, each in FusedWindows.replaces.items()},
        **{f'ffn.{path}': each for path, each in FFN_LAYERS.items()},
    }
    windows = FusedWindows()

    def why_slow(self, block: nn.Module, x: Tensor, hw_shape: Shape) -> str | None:
        return self.windows.why_slow(block.attn, x, hw_shape, 0)

    def why_not(self, block: nn.Module, x: Tensor, hw_shape: Shape) -> str | None:
        attn, msa, ffn, *norms = parts_of(block)
        layers = [*inside(ffn, 'layers')]
        if len(layers) != 3 or not ffn.add_identity:
            return 'the feed-forward network has other layers'
        for drop in (inside(msa, 'proj_drop'), layers[2]):
            if drop.training and drop.p:
                return 'the output of a layer is dropped'
        for norm in norms:
            weight = norm.weight
            if weight is None or norm.bias is None:
                return 'a norm has no weight or bias'
            if torch.promote_types(weight.dtype, x.dtype) != weight.dtype:
                return f'a norm is in {weight.dtype}'
        refused = self.windows.why_not(attn, x, hw_shape, attn.shift_size)
        return refused or why_other_ffn(ffn, x)

    def __call__(self, block: nn.Module, x: Tensor, hw_shape: Shape) -> Tensor:
        check_grid(x, hw_shape)
        attn, msa, ffn, norm1, norm2 = parts_of(block)
        (first, act, _), second, _ = inside(ffn, 'layers')
        _, shift = attn.window_on(hw_shape)
        mixes, gelu, of_key = mixing_within(msa.key, x)
        dtype = product_dtype(x)
        like = x.device, dtype
        grid = window_grid(len(x), *hw_shape, attn.window_size, shift, *like)
        norms = kinds_of_norms(x, norm1.weight, norm2.weight)
        keeps = torch.is_grad_enabled()
        windows = key = None
        of_norm1 = norm1.weight, norm1.bias
        if msa.key is not None and mixes is None:
            # a key that is called takes what plain code would give it
            settings = norm1.eps, grid, norm1.weight.dtype, keeps
            windows = compute(norms[0](x.flatten(0, 1), *of_norm1, *settings))
            key, of_norm1 = msa.key(windows).contiguous(), (None, None)
        project = inside(msa, 'qkv' if msa.has_linear_key else 'qv')
        layers = project, inside(msa, 'proj'), first, second
        weights = [each for layer in layers for each in (layer.weight, layer.bias)]
        paths = inside(attn, 'drop'), inside(ffn, 'dropout_layer')
        drops = drawn(paths, x, dtype)
        windows, key, *weights = autocast(windows, key, *weights, *of_key)
        table, pairs = position_of(msa)
        tensors = x, windows, key, *of_norm1, table
        result = Block(
            *(*tensors, *weights[:4], norm2.weight, norm2.bias, *weights[4:], *drops),
            *(pairs, grid, shift > 0, msa.scale),
            *(norm1.eps, norm2.eps, act.approximate, dtype, keeps),
            *(norms, mixes, gelu),
        )
        return compute(result)
