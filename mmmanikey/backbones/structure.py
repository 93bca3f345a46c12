"""What pictures, exporters and sharding ask of a backbone, ours or a stock one.

How many channels its maps have is asked of a class before it is built, by
``output_channels``; how deep a parameter is, by mmpretrain's ``get_layer_depth``.
"""

from mmcv.cnn.bricks.transformer import MultiheadAttention as MMCVAttention
from mmpretrain.models.utils import MultiheadAttention
from torch import nn

from ..attention.slot import KeySlot


def attention_layers(backbone: nn.Module) -> list[nn.Module]:
    """The layers that attend on the token grid, first to last: one in each block.

    Those of mmpretrain's and mmseg's ViT, and of the Swin of any framework: their
    classes differ, their parts have the same names. Of mmcv's attention no subclass is
    taken, as those attend to a coarser grid.
    """
    return [
        module
        for module in backbone.modules()
        if isinstance(module, MultiheadAttention)
        or type(module) is MMCVAttention
        or hasattr(getattr(module, 'w_msa', None), 'relative_position_bias_table')
    ]


def slot_of(layer: nn.Module) -> nn.Module:
    """The part of an attention layer that makes query, key and value."""
    return getattr(layer, 'w_msa', layer)


def key_slots(backbone: nn.Module) -> dict[str, KeySlot]:
    """The layers that may hold a manifold key, first to last, by name."""
    return {
        name: layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, KeySlot)
    }


def stride_of(backbone: nn.Module, layer: nn.Module) -> int:
    """Pixels on a side of a token of this layer; Swin merges patches after stages."""
    stride = backbone.patch_embed.projection.stride[0]
    for stage in getattr(backbone, 'stages', ()):
        if any(module is layer for module in stage.modules()):
            break
        if stage.downsample is not None:
            stride *= stage.downsample.sampler.stride[0]
    return stride
