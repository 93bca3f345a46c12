"""Swin and ViT as torchvision names their weights.

https://github.com/pytorch/vision (torchvision/models/swin_transformer.py and
vision_transformer.py). Swin V2 is another network and not read.
"""

from collections.abc import Mapping

from torch import Tensor

from .layout import Layout, Table, below
from .swin import INDEX, MERGING, SWIN_BLOCK, SwinLayout, count_stages

VISION_MLP = (
    ('mlp.0.{p}', 'ffn.layers.0.0.{p}'),
    ('mlp.3.{p}', 'ffn.layers.1.{p}'),
)
#: Within a block of Swin; all but the MLP is named as in Swin's own repository.
VISION_BLOCK = (
    *(row for row in SWIN_BLOCK if not row[0].startswith('mlp.')),
    *VISION_MLP,
)
#: Within a layer of ViT, whose published files have an older naming of the MLP.
VISION_LAYER = (
    ('ln_1.{p}', 'ln1.{p}'),
    ('ln_2.{p}', 'ln2.{p}'),
    ('self_attention.in_proj_{p}', 'attn.qkv.{p}'),
    ('self_attention.out_proj.{p}', 'attn.proj.{p}'),
    *VISION_MLP,
    ('mlp.linear_1.{p}', 'ffn.layers.0.0.{p}'),
    ('mlp.linear_2.{p}', 'ffn.layers.1.{p}'),
)
HEAD = (r'heads?\.', 'classification head')


class TorchvisionSwin(SwinLayout):
    """torchvision's swin_t, swin_s and swin_b."""

    name = 'torchvision Swin'
    patch_embedding = 'features.0.0.weight'
    attention = 'features.1.0.attn.relative_position_bias_table'
    dropped = (HEAD, INDEX)

    def table_of(self, state_dict: Mapping[str, Tensor]) -> Table:
        """``features`` holds the patch embedding, then stages and merging in turn."""
        num_stages = count_stages(state_dict, 'features') // 2
        table = [
            ('features.0.0.{p}', 'patch_embed.projection.{p}'),
            ('features.0.2.{p}', 'patch_embed.norm.{p}'),
            ('norm.{p}', f'norm{num_stages - 1}.{{p}}'),
        ]
        for stage in range(num_stages):
            blocks, merging = (f'features.{2 * stage + part}' for part in (1, 2))
            table += below(
                f'{blocks}.{{j}}', f'stages.{stage}.blocks.{{j}}', VISION_BLOCK
            )
            table += below(merging, f'stages.{stage}.downsample', MERGING)
        return table


class TorchvisionViT(Layout):
    """torchvision's vit_b_16, vit_b_32, vit_l_16, vit_l_32 and vit_h_14."""

    name = 'torchvision ViT'
    patch_embedding = 'conv_proj.weight'
    attention = 'encoder.layers.encoder_layer_0.self_attention.'
    table = (
        ('class_token', 'cls_token'),
        ('conv_proj.{p}', 'patch_embed.projection.{p}'),
        ('encoder.pos_embedding', 'pos_embed'),
        ('encoder.ln.{p}', 'ln1.{p}'),
        *below('encoder.layers.encoder_layer_{i}', 'layers.{i}', VISION_LAYER),
    )
    dropped = (HEAD,)
