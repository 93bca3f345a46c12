"""Families of transformers, see ``families.py``."""

import copy
from collections.abc import Callable

from torch import nn

#: Names of the fields of a family that come by name.
MIXES_DYNAMO = dict(ignores_shifts=False, onnx='dynamo')


def hugging_face(name: str, part: str = '', **kwargs) -> Callable:
    def build() -> nn.Module:
        import transformers

        # a copy, as it takes what it wants out of the dicts inside
        config = getattr(transformers, f'{name}Config')(**copy.deepcopy(kwargs))
        model = getattr(transformers, f'{name}Model')(config)
        return model.get_submodule(part)

    return build


HF_VIT = dict(
    image_size=32,
    patch_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
)
HF_SWIN = dict(
    image_size=64,
    patch_size=4,
    embed_dim=16,
    depths=[2, 1],
    num_heads=[2, 2],
    window_size=4,
)
DETR = dict(
    use_timm_backbone=False,
    use_pretrained_backbone=False,
    backbone_config=dict(
        model_type='resnet',
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type='basic',
        out_features=['stage2'],
    ),
    backbone=None,
    d_model=16,
    num_queries=6,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
)
TRANSFORMERS = (
    ('ViT', hugging_face('ViT', **HF_VIT)),
    ('DINOv2', hugging_face('Dinov2', **HF_VIT)),
    ('DINOv3', hugging_face('DINOv3ViT', **HF_VIT), MIXES_DYNAMO),
    (
        'SegFormer',
        hugging_face(
            'Segformer',
            depths=[1] * 4,
            hidden_sizes=[8, 16, 16, 32],
            num_attention_heads=[1, 2, 2, 2],
            decoder_hidden_size=16,
        ),
        64,
    ),
    ('Swin', hugging_face('Swin', **HF_SWIN), 64),
    (
        'SAM',
        hugging_face(
            'Sam',
            'vision_encoder',
            vision_config=dict(
                hidden_size=16,
                output_channels=8,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=64,
                patch_size=8,
                window_size=4,
                global_attn_indexes=[1],
                num_pos_feats=4,
                mlp_dim=32,
            ),
        ),
        64,
    ),
    (
        'Mask2Former',
        hugging_face(
            'Mask2Former',
            backbone_config=dict(
                model_type='swin',
                out_features=['stage1', 'stage2', 'stage3', 'stage4'],
                **dict(HF_SWIN, depths=[1] * 4, num_heads=[2] * 4),
            ),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            num_attention_heads=2,
            encoder_layers=1,
            decoder_layers=2,
            dim_feedforward=32,
            encoder_feedforward_dim=32,
            num_queries=6,
        ),
        64,
        dict(onnx=''),
    ),
    (
        'DETR',
        hugging_face('Detr', **DETR),
        64,
        dict(
            around=dict(where=['encoder.*', 'decoder.layers.1.*']),
            remedy='all but that one by `where=`',
        ),
    ),
)
