"""Files as trainings of many projects leave them, built from real networks of theirs.

Names follow the projects' own code: DINO and DINOv2 (facebookresearch), iBOT
(bytedance/ibot), MAE, MoCo v3, SimMIM (microsoft/SimMIM), DeiT, timm's train.py,
Lightning, detectron2, and MMEngine's EMAHook, which is run.
"""

import copy
from argparse import Namespace
from types import SimpleNamespace
from typing import NamedTuple

import torch
from mmengine.hooks import EMAHook
from mmpretrain.models import VisionTransformer
from mmpretrain.models.selfsup.simmim import SimMIMSwinTransformer
from oracles import randomize
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

SWIN = dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3])
VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=96)
OPTIMIZER = dict(state={0: dict(exp_avg=torch.ones(3), step=torch.ones(()))})


class File(NamedTuple):
    """What ``torch.save`` writes, and what the backbone in it must compute.

    Args:
        content (dict): The file.
        images (torch.Tensor): (2, 3, 64, 64).
        expected (torch.Tensor): Of the backbone that is taken by default.
        averaged (torch.Tensor | None): Of the one that ``ema=True`` takes.
        entry (str): Entry of the default.
        prefix (str): Its prefix.
        options (dict): Of our backbone.
    """

    content: dict
    images: torch.Tensor
    expected: torch.Tensor
    averaged: torch.Tensor | None
    entry: str
    prefix: str
    options: dict

    def backbone(self, **options):
        """Our backbone for this file, at another start."""
        options = {**self.options, **options}
        cls = ManifoldKeySwin if 'depths' in options['arch'] else ManifoldKeyViT
        return randomize(cls(**options)).eval()


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def timm_vit(**options):
    settings = dict(img_size=64, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    return randomize(TimmViT(**settings, **options)).eval()


def under(prefix, weights):
    return {f'{prefix}{name}': value for name, value in weights.items()}


def vit_file(wrap, entry='', prefix='', pair=False, **options):
    """A file of one timm ViT, or of one and its average."""
    plain, averaged = timm_vit(**options), timm_vit(**options)
    x = images()
    with torch.no_grad():
        expected = plain.forward_features(x)
        other = averaged.forward_features(x) if pair else None
    states = [plain.state_dict(), averaged.state_dict()]
    ours = dict(arch=VIT, img_size=64, patch_size=16, out_type='raw')
    return File(wrap(*states[: 1 + pair]), x, expected, other, entry, prefix, ours)


def deit():
    return vit_file(
        lambda weights, average: dict(
            model=weights,
            optimizer=OPTIMIZER,
            epoch=3,
            model_ema=average,
            scaler=dict(scale=1.0),
            args=Namespace(lr=0.1),
        ),
        entry='model',
        pair=True,
    )


def timm_training():
    return vit_file(
        lambda weights, average: dict(
            epoch=3,
            arch='vit',
            state_dict=weights,
            optimizer=OPTIMIZER,
            version=2,
            state_dict_ema=average,
        ),
        entry='state_dict',
        pair=True,
    )


def averaged_alone():
    return vit_file(lambda weights: dict(model_ema=weights), entry='model_ema')


def plain_loop():
    return vit_file(
        lambda weights: dict(
            epoch=1, model_state_dict=weights, optimizer_state_dict=OPTIMIZER
        ),
        entry='model_state_dict',
    )


def nested():
    return vit_file(
        lambda weights: dict(run=dict(networks=dict(student_net=weights)), lr=0.1),
        entry='run.networks.student_net',
    )


def lightning():
    return vit_file(
        lambda weights: {
            'pytorch-lightning_version': '2.0',
            'state_dict': {
                **under('model.backbone.', weights),
                'model.head.weight': torch.ones(5, 24),
                'criterion.weight': torch.ones(5),
            },
            'optimizer_states': [OPTIMIZER],
            'loops': dict(fit_loop=dict(state_dict=dict())),
        },
        entry='state_dict',
        prefix='model.backbone.',
    )


def compiled():
    return vit_file(lambda weights: under('_orig_mod.', weights))


def compiled_and_distributed():
    return vit_file(
        lambda weights: dict(
            model=under('module._orig_mod.backbone._orig_mod.', weights)
        ),
        entry='model',
        prefix='module.backbone.',
    )


def compiled_block():
    return vit_file(
        lambda weights: {
            name.replace('blocks.1.', 'blocks.1._orig_mod.'): value
            for name, value in weights.items()
        }
    )


def projection_head(prefix):
    return {
        f'{prefix}mlp.0.weight': torch.ones(8, 24),
        f'{prefix}mlp.0.bias': torch.ones(8),
        f'{prefix}last_layer.weight_g': torch.ones(8, 1),
        f'{prefix}last_layer.weight_v': torch.ones(8, 8),
    }


def dino():
    return vit_file(
        lambda weights, average: dict(
            student={
                **under('module.backbone.', weights),
                **projection_head('module.head.'),
            },
            teacher={**under('backbone.', average), **projection_head('head.')},
            optimizer=OPTIMIZER,
            epoch=1,
            args=Namespace(arch='vit_small'),
            dino_loss=dict(center=torch.zeros(1, 8)),
        ),
        entry='student',
        prefix='module.backbone.',
        pair=True,
    )


def ibot():
    mask = dict(masked_embed=torch.ones(1, 24))
    return vit_file(
        lambda weights, average: dict(
            student={
                **under('module.backbone.', {**weights, **mask}),
                **projection_head('module.head.'),
            },
            teacher={**under('backbone.', average), **projection_head('head.')},
            ibot_loss=dict(center=torch.zeros(1, 8), center2=torch.zeros(1, 1, 8)),
        ),
        entry='student',
        prefix='module.backbone.',
        pair=True,
    )


def dinov2_teacher():
    mask = dict(mask_token=torch.ones(1, 24))
    file = vit_file(
        lambda weights: dict(
            teacher={
                **under('backbone.', {**weights, **mask}),
                **projection_head('dino_head.'),
                **projection_head('ibot_head.'),
            }
        ),
        entry='teacher',
        prefix='backbone.',
        init_values=1e-1,
    )
    file.options['layer_scale_init_value'] = 1e-1
    return file


def mocov3():
    def with_head(prefix, weights):
        return {
            **under(prefix, weights),
            f'{prefix}head.0.weight': torch.ones(8, 24),
            f'{prefix}head.1.running_mean': torch.ones(8),
        }

    return vit_file(
        lambda weights, average: dict(
            arch='vit_small',
            state_dict={
                **with_head('module.momentum_encoder.', average),
                **with_head('module.base_encoder.', weights),
                'module.predictor.0.weight': torch.ones(8, 8),
            },
        ),
        entry='state_dict',
        prefix='module.base_encoder.',
        pair=True,
    )


def mae():
    decoder = timm_vit().state_dict()
    return vit_file(
        lambda weights: dict(
            model={
                **weights,
                **under(
                    'decoder_', {n: v for n, v in decoder.items() if 'blocks' in n}
                ),
                'mask_token': torch.ones(1, 1, 24),
                'decoder_pos_embed': torch.ones(1, 17, 24),
                'decoder_embed.weight': torch.ones(24, 24),
                'decoder_norm.weight': torch.ones(24),
                'decoder_pred.weight': torch.ones(768, 24),
            }
        ),
        entry='model',
    )


def mmdet_teacher():
    """mmdet's semi-supervised detectors."""
    return vit_file(
        lambda weights, average: dict(
            state_dict={
                **under('teacher.backbone.', average),
                'teacher.rpn_head.rpn_cls.weight': torch.ones(3),
                **under('student.backbone.', weights),
                'student.rpn_head.rpn_cls.weight': torch.ones(3),
            },
            meta={},
        ),
        entry='state_dict',
        prefix='student.backbone.',
        pair=True,
    )


def simmim():
    """Microsoft's own; timm's Swin has its names but for the place of downsampling."""
    theirs = randomize(
        TimmSwin(
            img_size=64,
            embed_dim=12,
            depths=(2, 2),
            num_heads=(2, 3),
            window_size=4,
            num_classes=0,
        )
    ).eval()
    x = images()
    with torch.no_grad():
        expected = theirs.forward_features(x).permute(0, 3, 1, 2)
    weights = {
        name.replace('layers.1.downsample', 'layers.0.downsample'): value
        for name, value in theirs.state_dict().items()
    }
    for name in [name for name in weights if name.endswith('bias_table')]:
        weights[name.replace('bias_table', 'index')] = torch.zeros(16, 16).long()
    weights['layers.0.blocks.1.attn_mask'] = torch.zeros(16, 16, 16)
    weights['mask_token'] = torch.ones(1, 1, 12)
    content = dict(
        model={
            **under('encoder.', weights),
            'decoder.0.weight': torch.ones(3 * 32**2, 24, 1, 1),
            'decoder.0.bias': torch.ones(3 * 32**2),
        },
        optimizer=OPTIMIZER,
        max_accuracy=0.0,
        epoch=99,
    )
    ours = dict(arch=SWIN, window_size=4, out_indices=(1,))
    return File(content, x, expected, None, 'model', 'encoder.', ours)


def mmpretrain_simmim():
    theirs = SimMIMSwinTransformer(SWIN, img_size=64, out_indices=(0, 1))
    theirs.train(False)
    randomize(theirs)
    x = images()
    with torch.no_grad():
        expected = theirs(x, mask=None)[1]
    content = dict(
        state_dict={
            **under('backbone.', theirs.state_dict()),
            'neck.decoder.0.weight': torch.ones(3, 3),
        },
        meta={},
    )
    ours = dict(arch=SWIN, out_indices=(1,))
    return File(content, x, expected, None, 'state_dict', 'backbone.', ours)


def mmengine_ema():
    """MMEngine tests and loads the average, which its hook puts into state_dict."""
    model = nn.ModuleDict(
        dict(
            backbone=VisionTransformer(VIT, img_size=64, patch_size=16, out_type='raw')
        )
    )
    model.backbone.train(False)
    hook = EMAHook()
    runner = SimpleNamespace(model=model)
    hook.before_run(runner)
    average = randomize(hook.ema_model.module)
    average.backbone.train(False)
    content = dict(state_dict=dict(model.state_dict()), meta={}, optimizer=OPTIMIZER)
    x = images()
    with torch.no_grad():
        expected = average.backbone(x)[0]
    hook.before_save_checkpoint(runner, content)
    ours = dict(arch=VIT, img_size=64, patch_size=16, out_type='raw')
    content = copy.deepcopy(content)
    return File(content, x, expected, expected, 'state_dict', 'backbone.', ours)


FILES = (
    deit,
    timm_training,
    averaged_alone,
    plain_loop,
    nested,
    lightning,
    compiled,
    compiled_and_distributed,
    compiled_block,
    dino,
    ibot,
    dinov2_teacher,
    mocov3,
    mae,
    mmdet_teacher,
    simmim,
    mmpretrain_simmim,
    mmengine_ema,
)
