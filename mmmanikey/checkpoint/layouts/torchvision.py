"""Swin and ViT as torchvision names their weights.

https://github.com/pytorch/vision (torchvision/models/swin_transformer.py and
vision_transformer.py). Swin V2 is another network and not read.
"""

from collections.abc import Mapping

from torch import Tensor

from .names import Conversion, Table, rename
from .swin import BLOCK, count_stages, with_unfold_order

MLP = (('mlp.0.{p}', 'ffn.layers.0.0.{p}'), ('mlp.3.{p}', 'ffn.layers.1.{p}'))
#: Within a block of Swin; all but the MLP is named as in Swin's own repository.
SWIN_BLOCK = (*(row for row in BLOCK if not row[0].startswith('mlp.')), *MLP)
#: Within a layer of ViT, whose published files have an older naming of the MLP.
VIT_LAYER = (
    ('ln_1.{p}', 'ln1.{p}'),
    ('ln_2.{p}', 'ln2.{p}'),
    ('self_attention.in_proj_{p}', 'attn.qkv.{p}'),
    ('self_attention.out_proj.{p}', 'attn.proj.{p}'),
    *MLP,
    ('mlp.linear_1.{p}', 'ffn.layers.0.0.{p}'),
    ('mlp.linear_2.{p}', 'ffn.layers.1.{p}'),
)
VIT_NAMES = (
    ('class_token', 'cls_token'),
    ('conv_proj.{p}', 'patch_embed.projection.{p}'),
    ('encoder.pos_embedding', 'pos_embed'),
    ('encoder.ln.{p}', 'ln1.{p}'),
    *(
        (f'encoder.layers.encoder_layer_{{i}}.{theirs}', f'layers.{{i}}.{ours}')
        for theirs, ours in VIT_LAYER
    ),
)
#: (how their name starts, why it is left out)
DROPPED = (
    (r'heads?\.', 'classification head'),
    (r'.*\.relative_position_index$', 'computed from the window'),
)


def names_of_swin(num_stages: int) -> Table:
    """(Their name, our name) of every weight of a Swin.

    ``features`` holds the patch embedding, then stages and patch merging in turn.
    """
    table = [
        ('features.0.0.{p}', 'patch_embed.projection.{p}'),
        ('features.0.2.{p}', 'patch_embed.norm.{p}'),
        ('norm.{p}', f'norm{num_stages - 1}.{{p}}'),
    ]
    for stage in range(num_stages):
        blocks, merging = 2 * stage + 1, 2 * stage + 2
        for theirs, ours in SWIN_BLOCK:
            name = f'features.{blocks}.{{j}}.{theirs}'
            table.append((name, f'stages.{stage}.blocks.{{j}}.{ours}'))
        for part in ('norm.{p}', 'reduction.{p}'):
            name = f'features.{merging}.{part}'
            table.append((name, f'stages.{stage}.downsample.{part}'))
    return table


class TorchvisionSwin:
    """torchvision's swin_t, swin_s and swin_b."""

    name = 'torchvision Swin'
    patch_embedding = 'features.0.0.weight'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        table = 'features.1.0.attn.relative_position_bias_table'
        return self.patch_embedding in state_dict and table in state_dict

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert to :class:`mmmanikey.backbones.ManifoldKeySwin`.

        Raises:
            ValueError: If our Swin has no place for a weight.
        """
        table = names_of_swin(count_stages(state_dict, 'features') // 2)
        weights, dropped = rename(state_dict, table, DROPPED, 'our Swin')
        return Conversion(with_unfold_order(weights), dropped)


class TorchvisionViT:
    """torchvision's vit_b_16, vit_b_32, vit_l_16, vit_l_32 and vit_h_14."""

    name = 'torchvision ViT'
    patch_embedding = 'conv_proj.weight'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        return self.patch_embedding in state_dict and any(
            name.startswith('encoder.layers.encoder_layer_0.self_attention.')
            for name in state_dict
        )

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert to :class:`mmmanikey.backbones.ManifoldKeyViT`.

        Raises:
            ValueError: If our ViT has no place for a weight.
        """
        return rename(state_dict, VIT_NAMES, DROPPED, 'our ViT')
