"""A stand-in for mmdet's ViTDet, which is one of its projects and in no package.

Signature, names of parameters, what is computed and the layers that the optimiser's
constructor finds are those of ``ViT`` and ``LayerDecayOptimizerConstructor`` in
projects/ViTDet/vitdet of https://github.com/open-mmlab/mmdetection; the code is ours.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn


class Attention(nn.Module):
    """Attention over a grid (B, h, w, C) with decomposed relative positions."""

    def __init__(self, dim, num_heads, qkv_bias, size, zero):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.size = size
        if size is not None:
            for name in ('rel_pos_h', 'rel_pos_w'):
                table = torch.zeros(2 * size - 1, dim // num_heads)
                table = table if zero else nn.init.trunc_normal_(table, std=0.02)
                setattr(self, name, nn.Parameter(table))

    def forward(self, x):
        grid = x.shape[1:3]
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if self.size is not None:
            q = q.unflatten(2, grid)
            rows = torch.einsum('bnhwc,hkc->bnhwk', q, offsets(self.rel_pos_h, grid[0]))
            cols = torch.einsum('bnhwc,wkc->bnhwk', q, offsets(self.rel_pos_w, grid[1]))
            positions = rows[..., None] + cols[..., None, :]
            logits = logits + positions.flatten(4, 5).flatten(2, 3)
        x = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.proj(x).unflatten(1, grid)


def offsets(table, size):
    """The row of a table for each query and key on an axis, (size, size, C)."""
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.t()[None], 2 * size - 1, mode='linear')[0].t()
    places = torch.arange(size)
    return table[places[:, None] - places + size - 1]


class Mlp(nn.Module):
    def __init__(self, dim, hidden, act_cfg):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = build_activation_layer(act_cfg)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """A layer, which attends in windows if its ``window_size`` is not 0."""

    def __init__(self, attn, mlp, norms, window_size, drop_path):
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn, self.mlp, self.window_size = attn, mlp, window_size
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x):
        side = self.window_size
        if not side:
            return self.attn(x)
        images, height, width = x.shape[:3]
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        x = self.attn(x.flatten(0, 2)).unflatten(0, (images, *x.shape[1:3]))
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x[:, :height, :width]


class PatchEmbed(nn.Module):
    def __init__(self, in_chans, embed_dim, patch_size):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).permute(0, 2, 3, 1)


class ViT(BaseModule):
    """Gives one map (B, C, h, w)."""

    def __init__(
        self,
        img_size=1024,
        patch_size=16,
        in_chans=3,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        qkv_bias=True,
        drop_path_rate=0.0,
        norm_cfg=dict(type='LN', eps=1e-6),  # noqa: B006
        act_cfg=dict(type='GELU'),  # noqa: B006
        use_abs_pos=True,
        use_rel_pos=False,
        rel_pos_zero_init=True,
        window_size=0,
        window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10),
        pretrain_img_size=224,
        pretrain_use_cls_token=True,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.before_grid = int(pretrain_use_cls_token)
        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size)
        self.pos_embed = None
        if use_abs_pos:
            tokens = (pretrain_img_size // patch_size) ** 2 + self.before_grid
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList()
        for i, drop_path in enumerate(torch.linspace(0, drop_path_rate, depth)):
            side = window_size if i in window_block_indexes else 0
            size = (side or img_size // patch_size) if use_rel_pos else None
            self.blocks.append(
                Block(
                    Attention(embed_dim, num_heads, qkv_bias, size, rel_pos_zero_init),
                    Mlp(embed_dim, int(embed_dim * mlp_ratio), act_cfg),
                    [build_norm_layer(norm_cfg, embed_dim)[1] for _ in range(2)],
                    side,
                    drop_path.item(),
                )
            )

    def forward(self, x):
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + self.positions(x.shape[1:3])
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)

    def positions(self, grid):
        """Those of the pretraining's square grid, resized to this one."""
        own = self.pos_embed[:, self.before_grid :]
        side = int(own.shape[1] ** 0.5)
        own = own.unflatten(1, (side, side))
        if grid != (side, side):
            own = own.permute(0, 3, 1, 2)
            own = F.interpolate(own, grid, mode='bicubic', align_corners=False)
            own = own.permute(0, 2, 3, 1)
        return own


class LayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Finds layers by the names that this ``ViT`` gives to its parameters."""

    def add_params(self, params, module, **kwargs):
        last = self.paramwise_cfg['num_layers'] + 1
        for name, parameter in module.named_parameters():
            layer = last
            if name.startswith('backbone'):
                if 'patch_embed' in name or 'pos_embed' in name:
                    layer = 0
                elif '.blocks.' in name:
                    layer = int(name.split('.')[2]) + 1
            rate = self.base_lr * self.paramwise_cfg['decay_rate'] ** (last - layer)
            params.append(dict(params=[parameter], lr=rate, param_name=name))
