"""Attention families at tiny sizes with random weights, and how to build them.

Whatever is said of a family in ``docs/any_backbone.md`` is what ``test_families.py``
found of the model that is built here.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from hugging_face import TRANSFORMERS
from oracles import randomize
from torch import nn


class Family(NamedTuple):
    """A kind of model.

    Attributes:
        library (str): Where it comes from.
        name (str): As it is called there.
        build (Callable): Gives a tiny model.
        size (int): Height and width of its images.
        around (dict): Arguments of ``insert_keys`` where it refuses the model as it is.
        prepare (Callable): What is done to the model instead.
        remedy (str): Either of these in words.
        ignores_shifts (bool): Whether nothing but numbers lies between the key and the
            softmax, which then ignores a constant in all keys: no rope, no norm.
        can_be_pickled (bool): Whether the stock model can.
        onnx (str): The exporter that serves the stock model, 'trace' or 'dynamo'; '' if
            ONNX Runtime does not run it.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    size: int = 32
    around: dict = {}  # noqa: RUF012
    prepare: Callable | None = None
    remedy: str = ''
    ignores_shifts: bool = True
    can_be_pickled: bool = True
    onnx: str = 'trace'

    def model(self, as_it_is: bool = False) -> nn.Module:
        """The same weights at each call, none of them 0 or 1, in evaluation."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model = self.build()
        for module in model.modules():
            module.training = False
        if self.prepare is not None and not as_it_is:
            self.prepare(model)
        return randomize(model, std=0.1)

    @property
    def example(self) -> tuple:
        """Shape of the images."""
        return 2, 3, self.size, self.size


def timm(name: str, **kwargs) -> Callable:
    def build() -> nn.Module:
        from timm import create_model

        return create_model(name, num_classes=5, **kwargs)

    return build


def torchvision(name: str, **kwargs) -> Callable:
    def build() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(num_classes=5, **kwargs)

    return build


def openmmlab(name: str, **kwargs) -> Callable:
    def build() -> nn.Module:
        from mmengine.registry import MODELS

        return MODELS.build(dict(type=name, **kwargs))

    return build


def mvit_v2() -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    cfg = MultiScaleVitCfg(depths=(1, 2), embed_dim=16, num_heads=1)
    return MultiScaleVit(cfg, img_size=(64, 64), num_classes=5)


def torchvision_swin_v2() -> nn.Module:
    from torchvision.models import swin_transformer as swin

    return swin.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 1],
        num_heads=[2, 2],
        window_size=[4, 4],
        num_classes=5,
        block=swin.SwinTransformerBlockV2,
        downsample_layer=swin.PatchMergingV2,
    )


def vitdet() -> nn.Module:
    from vitdet import ViT

    return ViT(
        img_size=64,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        window_size=4,
        window_block_indexes=(0,),
        use_rel_pos=True,
        pretrain_img_size=32,
    )


def separate_bias(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, 'qkv_bias_separate'):
            module.qkv_bias_separate = True


SEPARATE = dict(
    prepare=separate_bias,
    remedy='`qkv_bias_separate=True` on its attentions',
)
MIXES = dict(ignores_shifts=False)
DYNAMO = dict(onnx='dynamo')
INTERCEPT = dict(around=dict(read='intercept'), remedy="`read='intercept'`")
VIT = dict(img_size=32, patch_size=8, depth=2, embed_dim=16, num_heads=2)
STAGES = dict(depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2))
SWIN = dict(img_size=64, window_size=4, depths=(2, 1), embed_dim=16, num_heads=(2, 2))
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
MM_VIT = dict(arch=ARCH, img_size=32, patch_size=8)
MM_SWIN = dict(embed_dims=16, depths=[2, 1], num_heads=[2, 2])
TIMM = (
    ('ViT', timm('vit_tiny_patch16_224', **VIT)),
    ('DeiT3', timm('deit3_small_patch16_224', **VIT)),
    ('DINOv2 with registers', timm('vit_small_patch14_reg4_dinov2', **VIT)),
    ('DINOv3', timm('vit_small_patch16_dinov3', **VIT), {**MIXES, **DYNAMO}),
    ('EVA02', timm('eva02_tiny_patch14_224', **VIT), {**SEPARATE, **MIXES, **DYNAMO}),
    ('BEiT', timm('beit_base_patch16_224', **VIT), SEPARATE),
    ('Swin', timm('swin_tiny_patch4_window7_224', **SWIN), 64),
    ('Swin V2', timm('swinv2_tiny_window8_256', **SWIN), 64, {**SEPARATE, **MIXES}),
    (
        'Hiera',
        timm(
            'hiera_tiny_224',
            img_size=(64, 64),
            embed_dim=16,
            num_heads=1,
            stages=(1, 1, 1, 1),
        ),
        64,
    ),
    ('PVT v2', timm('pvt_v2_b0', embed_dims=(16, 16, 32, 32), **STAGES), 64),
    ('MViT v2', mvit_v2, 64, MIXES),
    (
        'MaxViT',
        timm(
            'maxvit_tiny_tf_224',
            img_size=64,
            depths=(1, 1),
            embed_dim=(16, 32),
            stem_width=16,
            transformer_dim_head=8,
        ),
        64,
    ),
    (
        'CoAtNet',
        timm(
            'coatnet_0_224',
            img_size=64,
            depths=(1, 1, 1, 1),
            embed_dim=(16, 16, 32, 32),
            stem_width=16,
            transformer_dim_head=8,
        ),
        64,
        DYNAMO,
    ),
    (
        'XCiT',
        timm(
            'xcit_nano_12_p8_224',
            img_size=32,
            depth=2,
            embed_dim=16,
            num_heads=2,
            cls_attn_layers=1,
        ),
        dict(
            around=dict(where='cls_attn_blocks.*'),
            remedy="its class attention by `where='cls_attn_blocks.*'`",
        ),
    ),
)
TORCHVISION = (
    (
        'ViT',
        torchvision(
            'VisionTransformer',
            image_size=32,
            patch_size=8,
            num_layers=2,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=32,
        ),
    ),
    (
        'Swin',
        torchvision(
            'SwinTransformer',
            patch_size=[4, 4],
            embed_dim=16,
            depths=[2, 1],
            num_heads=[2, 2],
            window_size=[4, 4],
        ),
        64,
        INTERCEPT,
    ),
    ('Swin V2', torchvision_swin_v2, 64, {**INTERCEPT, **MIXES}),
    (
        'MaxViT',
        torchvision(
            'MaxVit',
            input_size=(64, 64),
            stem_channels=16,
            partition_size=4,
            block_channels=[16, 32],
            block_layers=[1, 1],
            head_dim=8,
            stochastic_depth_prob=0.0,
        ),
        64,
    ),
)
MMPRETRAIN = (
    (
        'Swin V2',
        openmmlab(
            'mmpretrain.SwinTransformerV2',
            arch=dict(MM_SWIN, extra_norm_every_n_blocks=0),
            img_size=64,
            window_size=4,
            out_indices=(0, 1),
            pretrained_window_sizes=[0, 0],
        ),
        64,
        {**INTERCEPT, **MIXES},
    ),
    ('DeiT3', openmmlab('mmpretrain.DeiT3', **MM_VIT)),
    ('EVA02', openmmlab('mmpretrain.ViTEVA02', **MM_VIT), MIXES),
    ('BEiT', openmmlab('mmpretrain.BEiTViT', **MM_VIT), INTERCEPT),
    (
        'MViT',
        openmmlab(
            'mmpretrain.MViT',
            arch=dict(embed_dims=8, num_layers=4, num_heads=1, downscale_indices=[1]),
            img_size=64,
            out_scales=(0, 1),
        ),
        64,
        MIXES,
    ),
    (
        'HiViT',
        openmmlab(
            'mmpretrain.HiViT',
            arch=dict(embed_dims=32, depths=[1, 1, 7], num_heads=2),
            img_size=64,
            out_indices=[6],
        ),
        64,
    ),
    (
        'ViTSAM',
        openmmlab(
            'mmpretrain.ViTSAM',
            arch=dict(ARCH, global_attn_indexes=[1]),
            img_size=64,
            patch_size=8,
            window_size=4,
            out_channels=8,
        ),
        64,
    ),
    (
        'RevViT',
        openmmlab('mmpretrain.RevVisionTransformer', **MM_VIT),
        dict(can_be_pickled=False),
    ),
    (
        'TIMMBackbone',
        openmmlab('mmpretrain.TIMMBackbone', model_name='vit_tiny_patch16_224', **VIT),
    ),
)
MM_PVT = dict(embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 2, 2])
MMDET = (
    (
        'PVT',
        openmmlab('mmdet.PyramidVisionTransformer', pretrain_img_size=64, **MM_PVT),
        64,
    ),
    ('PVT v2', openmmlab('mmdet.PyramidVisionTransformerV2', **MM_PVT), 64),
    (
        'Swin',
        openmmlab(
            'mmdet.SwinTransformer',
            embed_dims=16,
            depths=[2, 1],
            num_heads=[2, 2],
            window_size=4,
            strides=(4, 2),
            out_indices=(0, 1),
            pretrain_img_size=64,
        ),
        64,
    ),
    ('ViTDet of its projects (a stand-in)', vitdet, 64),
)
MMSEG = (
    ('MiT (SegFormer)', openmmlab('mmseg.MixVisionTransformer', **MM_PVT), 64),
    (
        'Twins',
        openmmlab(
            'mmseg.SVT',
            embed_dims=[8, 16],
            patch_sizes=[4, 2],
            strides=[4, 2],
            num_heads=[1, 2],
            mlp_ratios=[2, 2],
            depths=[2, 2],
            sr_ratios=[4, 2],
            windiow_sizes=[4, 4],
            out_indices=(0, 1),
        ),
        64,
    ),
    (
        'BEiT',
        openmmlab(
            'mmseg.BEiT',
            img_size=(32, 32),
            patch_size=8,
            embed_dims=16,
            num_layers=2,
            num_heads=2,
        ),
        INTERCEPT,
    ),
    (
        'ViT',
        openmmlab(
            'mmseg.VisionTransformer',
            img_size=(32, 32),
            patch_size=8,
            embed_dims=16,
            num_layers=2,
            num_heads=2,
        ),
    ),
)
LIBRARIES = {
    'timm': TIMM,
    'torchvision': TORCHVISION,
    'mmpretrain': MMPRETRAIN,
    'mmdet': MMDET,
    'mmseg': MMSEG,
    'transformers': TRANSFORMERS,
}


def family(library: str, *row) -> Family:
    """A family of a row: its fields in their order, the last ones by name."""
    named = row[-1] if isinstance(row[-1], dict) else {}
    return Family(library, *(row[:-1] if named else row), **named)


FAMILIES = [family(name, *row) for name, rows in LIBRARIES.items() for row in rows]
