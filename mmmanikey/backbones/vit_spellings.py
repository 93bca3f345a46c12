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
from .spellings import GELU, LAYER_NORM, whole_patches


@dataclass(frozen=True)
class Ways:
    """How the two networks differ from mmpretrain's ViT."""

    attention_drop_path: bool = True  # whether it stands after attention as well
    proj_bias: bool = True  # of the projection after attention
    output_cls_token: bool = False  # give [map, class token] in place of each map
    out_origin: bool = False  # give the input of the first layer as the first output
    norm_eval: bool = False  # keep the norms in eval mode
    trained: Sequence[str] | None = None  # parts of names; None trains all
    one_map: bool = False  # give the map itself, not a tuple of it
    rel_pos_grid: Grid | None = None  # of global layers; None is the absolute ones'
    rel_pos_std: float = 0.0  # of relative positions at the start
    use_abs_pos: bool = True

    def change(self, attention: nn.Module) -> None:
        """Change an attention layer of mmpretrain's accordingly, in place."""
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


def from_mmseg_vit(
    img_size: int | Sequence[int] = 224,
    patch_size: int = 16,
    patch_pad: str | int = 'corner',
    in_channels: int = 3,
    embed_dims: int = 768,
    num_layers: int = 12,
    num_heads: int = 12,
    mlp_ratio: float = 4,
    out_origin: bool = False,
    out_indices: int | Sequence[int] = -1,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    with_cls_token: bool = True,
    output_cls_token: bool = False,
    norm_cfg: dict = LAYER_NORM,
    act_cfg: dict = GELU,
    patch_norm: bool = False,
    patch_bias: bool = False,
    pre_norm: bool = False,
    final_norm: bool = False,
    interpolate_mode: str = 'bicubic',
    num_fcs: int = 2,
    norm_eval: bool = False,
    frozen_exclude: Sequence[str] = ['all'],  # noqa: B006
) -> dict[str, object]:
    """mmseg's ``VisionTransformer``, which gives maps.

    Its class token is dropped behind the positions with ``with_cls_token=False``; ours
    is not there then.
    """
    switch('patch_norm', patch_norm)
    typed_config('norm_cfg', norm_cfg)
    if switch('output_cls_token', output_cls_token) and with_cls_token is not True:
        raise ValueError(
            f'output_cls_token=True needs with_cls_token=True, got {with_cls_token!r}'
        )
    are_names = is_list(frozen_exclude)
    if not are_names or not all(isinstance(part, str) for part in frozen_exclude):
        raise TypeError(
            f"frozen_exclude must be a list of parts of names, or ['all'], got "
            f'{frozen_exclude!r}'
        )
    return dict(
        arch=arch_of(embed_dims, num_layers, num_heads, mlp_ratio),
        img_size=whole_patches('img_size', img_size, patch_size),
        out_type='featmap',
        patch_cfg=dict(
            bias=switch('patch_bias', patch_bias),
            norm_cfg=norm_cfg if patch_norm else None,
            padding=patch_pad,
        ),
        layer_cfgs=dict(
            attn_drop_rate=rate('attn_drop_rate', attn_drop_rate),
            act_cfg=typed_config('act_cfg', act_cfg),
            num_fcs=positive_int('num_fcs', num_fcs),
        ),
        ways=Ways(
            attention_drop_path=False,
            proj_bias=switch('qkv_bias', qkv_bias),
            output_cls_token=output_cls_token,
            out_origin=switch('out_origin', out_origin),
            norm_eval=switch('norm_eval', norm_eval),
            trained=None if 'all' in frozen_exclude else tuple(frozen_exclude),
        ),
    )


def from_vitdet(
    img_size: int | Sequence[int] = 1024,
    patch_size: int = 16,
    in_chans: int = 3,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_path_rate: float = 0.0,
    norm_cfg: dict = dict(type='LN', eps=1e-6),  # noqa: B006
    act_cfg: dict = GELU,
    use_abs_pos: bool = True,
    use_rel_pos: bool = False,
    rel_pos_zero_init: bool = True,
    window_size: int = 0,
    window_block_indexes: Sequence[int] = (0, 1, 3, 4, 6, 7, 9, 10),
    pretrain_img_size: int | Sequence[int] = 224,
    pretrain_use_cls_token: bool = True,
) -> dict[str, object]:
    """The ViT of mmdet's ViTDet, which gives one map.

    Positions are kept at the size of the pretraining and resized to each image.
    """
    positive_int('depth', depth)
    if not is_list(window_block_indexes) or not all(map(is_int, window_block_indexes)):
        raise TypeError(
            'window_block_indexes must be a list of integers, got '
            f'{window_block_indexes!r}'
        )
    switch('pretrain_use_cls_token', pretrain_use_cls_token)
    grid = whole_patches('img_size', img_size, patch_size)
    patch = positive_pair('patch_size', patch_size)
    return dict(
        arch=arch_of(embed_dim, depth, num_heads, mlp_ratio),
        img_size=whole_patches('pretrain_img_size', pretrain_img_size, patch_size),
        in_channels=in_chans,
        with_cls_token=False,
        final_norm=False,
        out_type='featmap',
        layer_cfgs=dict(act_cfg=typed_config('act_cfg', act_cfg)),
        window_size=natural('window_size', window_size),
        global_attn_indexes=[i for i in range(depth) if i not in window_block_indexes],
        ways=Ways(
            one_map=True,
            rel_pos_grid=(grid[0] // patch[0], grid[1] // patch[1]),
            rel_pos_std=0.0 if switch('rel_pos_zero_init', rel_pos_zero_init) else 0.02,
            use_abs_pos=switch('use_abs_pos', use_abs_pos),
        ),
    )
