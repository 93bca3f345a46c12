"""Swin, ViT and DINOv2 as transformers names their weights.

https://github.com/huggingface/transformers (src/transformers/models, folders swin, vit,
dinov2 and dinov2_with_registers). ``save_pretrained`` writes the names of transformers
4; version 5 has others in memory, which ``torch.save`` writes. Query, key and value are
apart: all three get one new name, under which :func:`.rename` concatenates them.
"""

from collections.abc import Mapping

from torch import Tensor

from .layout import Conversion, Layout, Table, below
from .swin import INDEX, MERGING, SwinLayout, count_stages

PROJECTION = 'embeddings.patch_embeddings.projection'
BIAS_TABLE = 'relative_position_bias_table'
#: Within a block, what all these networks name alike: (their name, our name).
COMMON = (
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
HUB_BLOCK = (
    *((theirs, ours.replace('attn.', 'attn.w_msa.')) for theirs, ours in COMMON),
    ('attention.self.query.{p}', 'attn.w_msa.qkv.{p}'),
    ('attention.self.key.{p}', 'attn.w_msa.qkv.{p}'),
    ('attention.self.value.{p}', 'attn.w_msa.qkv.{p}'),
    (f'attention.self.{BIAS_TABLE}', f'attn.w_msa.{BIAS_TABLE}'),
    (f'attention.relative_position_bias.{BIAS_TABLE}', f'attn.w_msa.{BIAS_TABLE}'),
    ('layernorm_before.{p}', 'norm1.{p}'),
    ('layernorm_after.{p}', 'norm2.{p}'),
)
#: Within a layer of ViT, and of DINOv2, whose giant has a SwiGLU.
HUB_LAYER = (
    *COMMON,
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
BESIDE_BODY = (
    (r'(classifier|pooler)\.', 'classification head'),
    (r'(embeddings\.mask_token$|decoder\.)', 'used in pretraining alone'),
)
#: SwinBackbone has a norm for each output in place of the final one.
OUTPUT_NORM = 'hidden_states_norms.stage'


class TransformersSwin(SwinLayout):
    """transformers' SwinModel, and SwinBackbone as ``save_pretrained`` writes it."""

    name = 'transformers Swin'
    patch_embedding = f'{PROJECTION}.weight'
    attention = 'encoder.layers.0.blocks.0.attention.'
    dropped = (
        *BESIDE_BODY,
        INDEX,
        (r'(swin\.)?layernorm\.', 'not used by SwinBackbone'),
    )

    def table_of(self, state_dict: Mapping[str, Tensor]) -> Table:
        num_stages = count_stages(state_dict, 'encoder.layers')
        table = [
            ('embeddings.position_embeddings', 'absolute_pos_embed'),
            (f'{PROJECTION}.{{p}}', 'patch_embed.projection.{p}'),
            ('embeddings.norm.{p}', 'patch_embed.norm.{p}'),
            *below(
                'encoder.layers.{i}.blocks.{j}',
                'stages.{i}.blocks.{j}',
                HUB_BLOCK,
            ),
            *below('encoder.layers.{i}.downsample', 'stages.{i}.downsample', MERGING),
        ]
        if not any(name.startswith(OUTPUT_NORM) for name in state_dict):
            return [*table, ('layernorm.{p}', f'norm{num_stages - 1}.{{p}}')]
        norms = (
            (f'{OUTPUT_NORM}{stage + 1}.{{p}}', f'norm{stage}.{{p}}')
            for stage in range(num_stages)
        )
        return [*table, *norms]


class TransformersSwinBackbone(TransformersSwin):
    """SwinBackbone in memory of transformers 5, with its norms beside ``swin.``."""

    name = 'transformers SwinBackbone'
    patch_embedding = f'swin.{PROJECTION}.weight'
    attention = OUTPUT_NORM

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """As of the other Swin, without ``swin.``."""
        return super().to_ours(
            {name.removeprefix('swin.'): value for name, value in state_dict.items()}
        )


class TransformersViT(Layout):
    """transformers' ViTModel, ViTMAEModel, Dinov2Model and Dinov2WithRegistersModel.

    And the models around them. Registers become ``register_tokens``, (1, R, C).
    """

    name = 'transformers ViT'
    patch_embedding = f'{PROJECTION}.weight'
    attention = ('encoder.layer.0.attention.', 'layers.0.attention.')
    table = (
        ('embeddings.cls_token', 'cls_token'),
        ('embeddings.register_tokens', 'register_tokens'),
        ('embeddings.position_embeddings', 'pos_embed'),
        (f'{PROJECTION}.{{p}}', 'patch_embed.projection.{p}'),
        *below('encoder.layer.{i}', 'layers.{i}', HUB_LAYER),
        *below('layers.{i}', 'layers.{i}', HUB_LAYER),
        ('layernorm.{p}', 'ln1.{p}'),
    )
    dropped = BESIDE_BODY
