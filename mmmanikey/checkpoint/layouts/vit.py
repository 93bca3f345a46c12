"""ViT as timm names its weights, and with additions DeiT, DINOv2, MAE and ViTDet.

timm: https://github.com/huggingface/pytorch-image-models
(timm/models/vision_transformer.py, whose names DeiT uses); DINOv2:
https://github.com/facebookresearch/dinov2 (dinov2/models/vision_transformer.py); MAE:
https://github.com/facebookresearch/mae (models_mae.py, models_vit.py); ViTDet:
https://github.com/facebookresearch/detectron2 (modeling/backbone/vit.py) and mmdet's
projects/ViTDet.
"""

from collections.abc import Mapping

from torch import Tensor

from ...grids import is_square, source_grid, told_grids
from .layout import (
    BESIDE,
    Conversion,
    Layout,
    Table,
    below,
    inverse,
    rename,
)

#: Within a block, timm's MLP: (timm's name, our name).
TIMM_MLP = (
    ('mlp.fc1.{p}', 'ffn.layers.0.0.{p}'),
    ('mlp.fc2.{p}', 'ffn.layers.1.{p}'),
)
#: SwiGLU in place of the MLP: both halves of its first layer are one weight.
SWIGLU = (('mlp.fc1.{p}', 'ffn.w12.{p}'), ('mlp.fc2.{p}', 'ffn.w3.{p}'))
#: Within a block, all else.
TIMM_BLOCK = (
    ('norm1.{p}', 'ln1.{p}'),
    ('attn.qkv.{p}', 'attn.qkv.{p}'),
    ('attn.proj.{p}', 'attn.proj.{p}'),
    ('ls1.gamma', 'attn.gamma1.weight'),
    ('norm2.{p}', 'ln2.{p}'),
    ('ls2.gamma', 'ffn.gamma2.weight'),
)
#: Within a block, what DINOv2's own files and ViTDet's have besides.
TIMM_OTHERS = (
    ('mlp.w12.{p}', 'ffn.w12.{p}'),
    ('mlp.w3.{p}', 'ffn.w3.{p}'),
    ('attn.rel_pos_h', 'attn.rel_pos_h'),
    ('attn.rel_pos_w', 'attn.rel_pos_w'),
)
#: (timm's name, our name)
TIMM_NAMES = (
    ('cls_token', 'cls_token'),
    ('reg_token', 'register_tokens'),
    ('pos_embed', 'pos_embed'),
    ('patch_embed.proj.{p}', 'patch_embed.projection.{p}'),
    ('norm_pre.{p}', 'pre_norm.{p}'),
    *below('blocks.{i}', 'layers.{i}', TIMM_BLOCK),
    ('norm.{p}', 'ln1.{p}'),
    ('fc_norm.{p}', 'ln2.{p}'),
)


class TimmViT(Layout):
    """timm's ViT, DeiT, and MAE's encoder, which it names alike.

    The norm after average pooling (``fc_norm``) is our ``ln2``: such a model has
    ``out_type='avg_featmap', final_norm=False`` here.
    """

    name = 'timm ViT'
    patch_embedding = 'patch_embed.proj.weight'
    attention = 'blocks.0.attn.qkv.weight'
    dropped = (
        (r'(head|pre_logits|attn_pool)\.', 'classification head'),
        (r'simfp_\d+\.', 'feature pyramid, which is a neck here'),
        *BESIDE,
    )

    def table_of(self, state_dict: Mapping[str, Tensor]) -> Table:
        if 'dist_token' in state_dict:
            raise ValueError(
                'our ViT has no place for a distillation token (dist_token): take the '
                'weights of the model without distillation'
            )
        mlp = SWIGLU if has_swiglu(state_dict) else TIMM_MLP
        return (
            *TIMM_NAMES,
            ('register_tokens', 'register_tokens'),
            *below('blocks.{i}', 'layers.{i}', (*mlp, *TIMM_OTHERS)),
        )

    def reordered(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Registers without positions."""
        if 'register_tokens' in weights and 'pos_embed' in weights:
            weights |= without_register_positions(weights)
        return weights

    def from_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert a backbone of ours; raises ValueError if a weight has no place.

        With registers timm's model is one of ``no_embed_class=True``, as its own are:
        the position of the class token, if it has one, becomes part of it. Context
        broadcasting has no weights that could tell of it, and timm does not have it:
        weights trained with it are worth little there.
        """
        if 'ln1.weight' in state_dict and 'ln2.weight' in state_dict:
            raise ValueError(
                'the backbone has a norm before and one after average pooling (ln1, '
                'ln2), and timm has a place for one of them'
            )
        grid, state_dict = told_grids(state_dict).get(''), dict(state_dict)
        if {'register_tokens', 'cls_token', 'pos_embed'} <= set(state_dict):
            positions = state_dict['pos_embed']
            found = source_grid(positions.shape[1], (1, 0), None, grid)
            if found is None:
                raise ValueError(
                    f'pos_embed has {positions.shape[1]} rows, which belong to no '
                    'square grid, and the weights do not tell to which'
                )
            own = positions[:, : found[1]].sum(dim=1, keepdim=True)  # zero without one
            state_dict['cls_token'] = state_dict['cls_token'] + own
            state_dict['pos_embed'] = positions[:, found[1] :]
        table = (*TIMM_NAMES, *below('blocks.{i}', 'layers.{i}', (*TIMM_MLP, *SWIGLU)))
        return rename(state_dict, inverse(table), (), 'timm ViT')


def without_register_positions(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Registers and positions of a square grid whose registers have positions.

    Some of timm's models without class token are so. Here registers have none, and
    theirs become part of them.
    """
    registers, positions = weights['register_tokens'], weights['pos_embed']
    number, rows = registers.shape[1], positions.shape[1]
    if 'cls_token' in weights or is_square(rows) or not is_square(rows - number):
        return {}
    return dict(
        register_tokens=registers + positions[:, :number],
        pos_embed=positions[:, number:],
    )


def has_swiglu(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the first layer of the MLP makes twice what the second one takes."""
    layers = [state_dict.get(f'blocks.0.mlp.fc{i}.weight') for i in (1, 2)]
    if any(layer is None or layer.dim() != 2 for layer in layers):
        return False
    return len(layers[0]) == 2 * layers[1].shape[1]


class MAE(TimmViT):
    """MAE's pretraining model, with its decoder; files of its encoder are timm's."""

    name = 'MAE'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        return super().matches(state_dict) and 'decoder_embed.weight' in state_dict


class ViTDet(TimmViT):
    """ViTDet in detectron2 (``net.blocks...``) and in mmdet's project (``blocks...``).

    Its positions may keep a class token's, although it has none; our ViT drops it.
    """

    name = 'ViTDet'
    patch_embedding = 'net.patch_embed.proj.weight'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        marks = (f'net.{TimmViT.attention}', 'blocks.0.attn.rel_pos_h')
        found = any(name in state_dict for name in marks)
        return found and TimmViT().matches(without_net(state_dict))

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """As of timm's ViT, without ``net.``."""
        return super().to_ours(without_net(state_dict))


def without_net(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict without detectron2's ``net.``, beside which the pyramid stands."""
    return {name.removeprefix('net.'): value for name, value in state_dict.items()}
