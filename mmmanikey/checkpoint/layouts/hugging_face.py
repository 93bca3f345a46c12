"""Swin, ViT and DINOv2 as transformers names their weights.

https://github.com/huggingface/transformers (src/transformers/models, folders swin, vit,
dinov2 and dinov2_with_registers). ``save_pretrained`` writes the names of transformers
4; version 5 has others in memory, which ``torch.save`` writes. Query, key and value are
apart: all three get one new name, under which :func:`.rename` concatenates them.
"""

from collections.abc import Mapping

from torch import Tensor

from .names import Conversion, Table, rename
from .swin import with_unfold_order

PATCH_EMBEDDING = 'embeddings.patch_embeddings.projection'
BIAS_TABLE = 'relative_position_bias_table'
#: Within a block, what all these networks name alike: (their name, our name).
BLOCK = (
    ('attention.q_proj.{p}', 'attn.qkv.{p}'),
    ('attention.k_proj.{p}', 'attn.qkv.{p}'),
    ('attention.v_proj.{p}', 'attn.qkv.{p}'),
    ('attention.output.dense.{p}', 'attn.proj.{p}'),
    ('attention.o_proj.{p}', 'attn.proj.{p}'),
    ('intermediate.dense.{p}', 'ffn.layers.0.0.{p}'),
    ('mlp.fc1.{p}', 'ffn.layers.0.0.{p}'),
    ('output.dense.{p}', 'ffn.layers.1.{p}'),
    ('mlp.fc2.{p}', 'ffn.layers.1.{p}'),
)
#: Within a block of Swin; our attention stands in ``attn.w_msa``.
SWIN_BLOCK = (
    *((theirs, ours.replace('attn.', 'attn.w_msa.')) for theirs, ours in BLOCK),
    ('attention.self.query.{p}', 'attn.w_msa.qkv.{p}'),
    ('attention.self.key.{p}', 'attn.w_msa.qkv.{p}'),
    ('attention.self.value.{p}', 'attn.w_msa.qkv.{p}'),
    (f'attention.self.{BIAS_TABLE}', f'attn.w_msa.{BIAS_TABLE}'),
    (f'attention.relative_position_bias.{BIAS_TABLE}', f'attn.w_msa.{BIAS_TABLE}'),
    ('layernorm_before.{p}', 'norm1.{p}'),
    ('layernorm_after.{p}', 'norm2.{p}'),
)
#: Within a layer of ViT, and of DINOv2, whose giant has a SwiGLU.
VIT_LAYER = (
    *BLOCK,
    ('attention.attention.query.{p}', 'attn.qkv.{p}'),
    ('attention.attention.key.{p}', 'attn.qkv.{p}'),
    ('attention.attention.value.{p}', 'attn.qkv.{p}'),
    ('layernorm_before.{p}', 'ln1.{p}'),
    ('layernorm_after.{p}', 'ln2.{p}'),
    ('norm1.{p}', 'ln1.{p}'),
    ('norm2.{p}', 'ln2.{p}'),
    ('layer_scale1.lambda1', 'attn.gamma1.weight'),
    ('layer_scale2.lambda1', 'ffn.gamma2.weight'),
    ('mlp.weights_in.{p}', 'ffn.w12.{p}'),
    ('mlp.gate_proj.{p}', 'ffn.w12.{p}'),
    ('mlp.up_proj.{p}', 'ffn.w12.{p}'),
    ('mlp.weights_out.{p}', 'ffn.w3.{p}'),
    ('mlp.down_proj.{p}', 'ffn.w3.{p}'),
)
VIT_NAMES = (
    ('embeddings.cls_token', 'cls_token'),
    ('embeddings.register_tokens', 'register_tokens'),
    ('embeddings.position_embeddings', 'pos_embed'),
    (f'{PATCH_EMBEDDING}.{{p}}', 'patch_embed.projection.{p}'),
    *(
        (f'{stem}.{{i}}.{theirs}', f'layers.{{i}}.{ours}')
        for stem in ('encoder.layer', 'layers')
        for theirs, ours in VIT_LAYER
    ),
    ('layernorm.{p}', 'ln1.{p}'),
)
#: (how their name starts, why it is left out)
DROPPED = (
    (r'(classifier|pooler)\.', 'classification head'),
    (r'(embeddings\.mask_token$|decoder\.)', 'used in pretraining alone'),
    (r'.*\.relative_position_index$', 'computed from the window'),
)


#: SwinBackbone has a norm for each output in place of the final one.
OUTPUT_NORM = 'hidden_states_norms.stage'


def names_of_swin(num_stages: int) -> Table:
    """(Their name, our name) of every weight of a Swin."""
    table = [
        ('embeddings.position_embeddings', 'absolute_pos_embed'),
        (f'{PATCH_EMBEDDING}.{{p}}', 'patch_embed.projection.{p}'),
        ('embeddings.norm.{p}', 'patch_embed.norm.{p}'),
        ('layernorm.{p}', f'norm{num_stages - 1}.{{p}}'),
    ]
    for theirs, ours in SWIN_BLOCK:
        block = f'encoder.layers.{{i}}.blocks.{{j}}.{theirs}'
        table.append((block, f'stages.{{i}}.blocks.{{j}}.{ours}'))
    for part in ('downsample.norm.{p}', 'downsample.reduction.{p}'):
        table.append((f'encoder.layers.{{i}}.{part}', f'stages.{{i}}.{part}'))
    for stage in range(num_stages):
        table.append((f'{OUTPUT_NORM}{stage + 1}.{{p}}', f'norm{stage}.{{p}}'))
    return table


class TransformersSwin:
    """transformers' SwinModel, and SwinBackbone as ``save_pretrained`` writes it."""

    name = 'transformers Swin'
    patch_embedding = f'{PATCH_EMBEDDING}.weight'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        block = 'encoder.layers.0.blocks.0.attention.'
        return f'{PATCH_EMBEDDING}.weight' in state_dict and any(
            name.startswith(block) for name in state_dict
        )

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert to :class:`mmmanikey.backbones.ManifoldKeySwin`.

        Raises:
            ValueError: If our Swin has no place for a weight.
        """
        blocks = (name for name in state_dict if name.startswith('encoder.layers.'))
        table = names_of_swin(len({name.split('.')[2] for name in blocks}))
        dropped = DROPPED
        if any(name.startswith(OUTPUT_NORM) for name in state_dict):
            table = [row for row in table if row[0] != 'layernorm.{p}']
            unused = r'(swin\.)?layernorm\.', 'not used by SwinBackbone'
            dropped = (*DROPPED, unused)
        weights, left_out = rename(state_dict, table, dropped, 'our Swin')
        return Conversion(with_unfold_order(weights), left_out)


class TransformersSwinBackbone(TransformersSwin):
    """SwinBackbone in memory of transformers 5, with its norms beside ``swin.``."""

    name = 'transformers SwinBackbone'
    patch_embedding = f'swin.{PATCH_EMBEDDING}.weight'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        return self.patch_embedding in state_dict and any(
            name.startswith(OUTPUT_NORM) for name in state_dict
        )

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert to :class:`mmmanikey.backbones.ManifoldKeySwin`.

        Raises:
            ValueError: If our Swin has no place for a weight.
        """
        return super().to_ours(
            {name.removeprefix('swin.'): value for name, value in state_dict.items()}
        )


class TransformersViT:
    """transformers' ViTModel, ViTMAEModel, Dinov2Model and Dinov2WithRegistersModel.

    And the models around them. Registers become ``register_tokens``, (1, R, C).
    """

    name = 'transformers ViT'
    patch_embedding = f'{PATCH_EMBEDDING}.weight'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        layers = ('encoder.layer.0.attention.', 'layers.0.attention.')
        return self.patch_embedding in state_dict and any(
            name.startswith(layers) for name in state_dict
        )

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert to :class:`mmmanikey.backbones.ManifoldKeyViT`.

        Raises:
            ValueError: If our ViT has no place for a weight.
        """
        return rename(state_dict, VIT_NAMES, DROPPED, 'our ViT')
