"""What pictures, exporters and sharding ask of a backbone, ours or mmpretrain's.

How many channels its maps have is asked of a class before it is built, by
``output_channels``; how deep a parameter is, by mmpretrain's ``get_layer_depth``.
"""

from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import nn

from ..attention.slot import KeySlot

#: Classes of the blocks.
BLOCKS = (SwinBlock, TransformerEncoderLayer)


def attention_layers(backbone: nn.Module) -> list[nn.Module]:
    """The layers that attend on the token grid, first to last: one in each block."""
    return [block.attn for block in backbone.modules() if isinstance(block, BLOCKS)]


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
    """Pixels on a side of a token of this layer; Swin halves its grid in each stage."""
    stride = backbone.patch_embed.projection.stride[0]
    for number, stage in enumerate(getattr(backbone, 'stages', ())):
        if any(module is layer for module in stage.modules()):
            return stride * 2**number
    return stride
