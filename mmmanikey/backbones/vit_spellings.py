"""The arguments of mmseg's ``VisionTransformer`` and of the ViT of mmdet's ViTDet.

They are in mmseg/models/backbones/vit.py of
https://github.com/open-mmlab/mmsegmentation, and in projects/ViTDet/vitdet/vit.py of
https://github.com/open-mmlab/mmdetection, which is not in mmdet's distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..arguments import (
    is_int,
    is_list,
    natural,
    positive_int,
    positive_number,
    positive_pair,
    rate,
    switch,
    typed_config,
)
from ..grids import Grid
from .spellings import Arguments, Spelling, whole_patches


@dataclass(frozen=True)
class Ways:
    """What the two do and mmpretrain's ViT does not.

    Args:
        attention_drop_path (bool): Whether drop path stands after attention as well.
            Defaults to True.
        proj_bias (bool): Whether the projection after attention has a bias. Defaults to
            True.
        output_cls_token (bool): Give [map, class token] in place of each map. Defaults
            to False.
        out_origin (bool): Give the input of the first layer as the first output.
            Defaults to False.
        norm_eval (bool): Keep the norms in eval mode. Defaults to False.
        trained (Sequence[str], optional): Parts of the names of the only parameters
            that are trained; None trains all. Defaults to None.
        one_map (bool): Give the map itself, not a tuple of it. Defaults to False.
        rel_pos_grid (Grid, optional): Grid of the relative positions of layers that
            attend globally; None is that of the absolute ones. Defaults to None.
        rel_pos_std (float): Deviation of relative positions at the start. Defaults to
            0.
        use_abs_pos (bool): Whether there are absolute positions. Defaults to True.
    """

    attention_drop_path: bool = True
    proj_bias: bool = True
    output_cls_token: bool = False
    out_origin: bool = False
    norm_eval: bool = False
    trained: Sequence[str] | None = None
    one_map: bool = False
    rel_pos_grid: Grid | None = None
    rel_pos_std: float = 0.0
    use_abs_pos: bool = True

    def change(self, attention: nn.Module) -> None:
        """Make an attention layer what these ways want, in place."""
        if not self.attention_drop_path:
            attention.out_drop = nn.Identity()
        if not self.proj_bias:
            attention.proj.bias = None
        if self.rel_pos_std and attention.use_rel_pos:
            for positions in (attention.rel_pos_h, attention.rel_pos_w):
                nn.init.trunc_normal_(positions, std=self.rel_pos_std)

    def freeze(self, backbone: nn.Module) -> None:
        """Freeze all but what is to be trained, and keep the norms in eval mode."""
        for name, parameter in backbone.named_parameters():
            if self.trained is not None and not any(n in name for n in self.trained):
                parameter.requires_grad_(False)
        if self.norm_eval:
            for module in backbone.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eval()


def arch_of(
    embed_dims: int, num_layers: int, num_heads: int, mlp_ratio: float
) -> dict[str, int]:
    """mmpretrain's ``arch`` of these sizes."""
    positive_int('embed_dims', embed_dims)
    return dict(
        embed_dims=embed_dims,
        num_layers=num_layers,
        num_heads=num_heads,
        feedforward_channels=int(positive_number('mlp_ratio', mlp_ratio) * embed_dims),
    )


def from_mmseg_vit(given: Arguments) -> dict[str, object]:
    """mmseg's ``VisionTransformer``, which gives maps.

    Its class token is dropped behind the positions with ``with_cls_token=False``; ours
    is not there then.
    """
    patch_norm = switch('patch_norm', given['patch_norm'])
    typed_config('norm_cfg', given['norm_cfg'])
    wants_token = switch('output_cls_token', given['output_cls_token'])
    if wants_token and given['with_cls_token'] is not True:
        raise ValueError(
            'output_cls_token=True needs with_cls_token=True, got '
            f'{given["with_cls_token"]!r}'
        )
    exclude = given['frozen_exclude']
    if not is_list(exclude) or not all(isinstance(part, str) for part in exclude):
        raise TypeError(
            f"frozen_exclude must be a list of parts of names, or ['all'], got "
            f'{exclude!r}'
        )
    arch = (given[n] for n in ('embed_dims', 'num_layers', 'num_heads', 'mlp_ratio'))
    same = ('patch_size', 'in_channels', 'out_indices', 'qkv_bias', 'drop_rate')
    same += ('drop_path_rate', 'with_cls_token', 'norm_cfg', 'pre_norm', 'final_norm')
    return dict(
        arch=arch_of(*arch),
        img_size=whole_patches('img_size', given['img_size'], given['patch_size']),
        out_type='featmap',
        patch_cfg=dict(
            bias=switch('patch_bias', given['patch_bias']),
            norm_cfg=given['norm_cfg'] if patch_norm else None,
            padding=given['patch_pad'],
        ),
        layer_cfgs=dict(
            attn_drop_rate=rate('attn_drop_rate', given['attn_drop_rate']),
            act_cfg=typed_config('act_cfg', given['act_cfg']),
            num_fcs=positive_int('num_fcs', given['num_fcs']),
        ),
        ways=Ways(
            attention_drop_path=False,
            proj_bias=switch('qkv_bias', given['qkv_bias']),
            output_cls_token=given['output_cls_token'],
            out_origin=switch('out_origin', given['out_origin']),
            norm_eval=switch('norm_eval', given['norm_eval']),
            trained=None if 'all' in exclude else tuple(exclude),
        ),
        interpolate_mode=given['interpolate_mode'],
        **{name: given[name] for name in same},
    )


def from_vitdet(given: Arguments) -> dict[str, object]:
    """The ViT of mmdet's ViTDet, which gives one map.

    Positions are kept at the size of the pretraining and resized to each image.
    """
    num_layers = positive_int('depth', given['depth'])
    windows = given['window_block_indexes']
    if not is_list(windows) or not all(map(is_int, windows)):
        raise TypeError(
            f'window_block_indexes must be a list of integers, got {windows!r}'
        )
    patch = given['patch_size']
    switch('pretrain_use_cls_token', given['pretrain_use_cls_token'])
    random = not switch('rel_pos_zero_init', given['rel_pos_zero_init'])
    grid = whole_patches('img_size', given['img_size'], patch)
    same = ('qkv_bias', 'drop_path_rate', 'norm_cfg', 'patch_size', 'use_rel_pos')
    return dict(
        arch=arch_of(
            given['embed_dim'], num_layers, given['num_heads'], given['mlp_ratio']
        ),
        img_size=whole_patches('pretrain_img_size', given['pretrain_img_size'], patch),
        in_channels=given['in_chans'],
        with_cls_token=False,
        final_norm=False,
        out_type='featmap',
        layer_cfgs=dict(act_cfg=typed_config('act_cfg', given['act_cfg'])),
        window_size=natural('window_size', given['window_size']),
        global_attn_indexes=[i for i in range(num_layers) if i not in windows],
        ways=Ways(
            one_map=True,
            rel_pos_grid=tuple(
                side // part
                for side, part in zip(grid, positive_pair('patch_size', patch))
            ),
            rel_pos_std=0.02 if random else 0.0,
            use_abs_pos=switch('use_abs_pos', given['use_abs_pos']),
        ),
        **{name: given[name] for name in same},
    )


MMSEG_VIT = Spelling(
    stock="mmseg's VisionTransformer",
    defaults=dict(
        img_size=224,
        patch_size=16,
        patch_pad='corner',
        in_channels=3,
        embed_dims=768,
        num_layers=12,
        num_heads=12,
        mlp_ratio=4,
        out_origin=False,
        out_indices=-1,
        qkv_bias=True,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.0,
        with_cls_token=True,
        output_cls_token=False,
        norm_cfg=dict(type='LN'),
        act_cfg=dict(type='GELU'),
        patch_norm=False,
        patch_bias=False,
        pre_norm=False,
        final_norm=False,
        interpolate_mode='bicubic',
        num_fcs=2,
        norm_eval=False,
        frozen_exclude=['all'],
    ),
    translate=from_mmseg_vit,
)
VITDET = Spelling(
    stock="the ViT of mmdet's ViTDet",
    defaults=dict(
        img_size=1024,
        patch_size=16,
        in_chans=3,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        qkv_bias=True,
        drop_path_rate=0.0,
        norm_cfg=dict(type='LN', eps=1e-6),
        act_cfg=dict(type='GELU'),
        use_abs_pos=True,
        use_rel_pos=False,
        rel_pos_zero_init=True,
        window_size=0,
        window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10),
        pretrain_img_size=224,
        pretrain_use_cls_token=True,
    ),
    translate=from_vitdet,
)
