"""Positions in a state dict, resized to the backbone that loads it.

Called by the backbones' hooks, so that plain ``load_state_dict``, mmengine's loaders
and :class:`mmmanikey.checkpoint.PretrainedBackbone` do the same.
"""

import math
from collections.abc import Sequence

import torch
from mmpretrain.models.utils import resize_pos_embed
from torch import nn

from ..attention import ManifoldKeyWindowMSA
from ..checkpoint.resize import (
    resize_relative_position,
    resize_relative_position_bias_table,
)
from ..grids import is_square, source_grid, told_grid, unknown_grid


def fit_positions(
    backbone: nn.Module,
    state_dict: dict,
    prefix: str,
    name: str,
    local_metadata: dict,
    extras: Sequence[int] = (0,),
) -> None:
    """Resize absolute positions of another image size; drop or add the class token's.

    A class token that comes without a position (DeiT III) gets a position of zero; a
    backbone's own class token that the state dict does not bring keeps its start.

    Args:
        backbone (nn.Module): Swin or ViT.
        state_dict (dict): What is being loaded; changed in place.
        prefix (str): Prefix of the backbone.
        name (str): Name of the positions, (1, N, C).
        local_metadata (dict): Metadata of the backbone.
        extras (Sequence[int]): See :func:`mmmanikey.grids.source_grid`. Defaults to
            ``(0,)``.

    Raises:
        ValueError: If their grid cannot be known.
    """
    own, positions = getattr(backbone, name), state_dict.get(prefix + name)
    target, told = tuple(backbone.patch_resolution), told_grid(local_metadata)
    if positions is None or positions.dim() != 3:
        return
    if positions.shape[::2] != own.shape[::2]:  # left to PyTorch, which names both
        return
    if positions.shape == own.shape and told in (None, target):
        return
    rows = positions.shape[1]
    found = source_grid(rows, extras, target, told)
    if found is None:
        why = unknown_grid(rows, 'img_size', target)
        raise ValueError(f'{prefix}{name} {why}')
    source, num_extra = found
    extra, grid = positions[:, :num_extra], positions[:, num_extra:]
    grid = resize_pos_embed(grid, source, target, backbone.interpolate_mode, 0)
    wanted = own.shape[1] - math.prod(target)
    if num_extra < wanted:
        extra = own[:, :wanted].detach().to(grid)
        extra = torch.zeros_like(extra) if f'{prefix}cls_token' in state_dict else extra
    state_dict[prefix + name] = torch.cat([extra[:, :wanted], grid], dim=1)


def fit_relative_positions(backbone: nn.Module, state_dict: dict, prefix: str) -> None:
    """Resize ViTDet's relative positions of another window or image size."""
    for name, parameter in backbone.named_parameters():
        if not name.endswith(('rel_pos_h', 'rel_pos_w')):
            continue
        rel_pos = state_dict.get(prefix + name)
        if rel_pos is not None and len(rel_pos) != len(parameter):
            state_dict[prefix + name] = resize_relative_position(
                rel_pos, len(parameter)
            )


def fit_bias_tables(backbone: nn.Module, state_dict: dict, prefix: str) -> None:
    """Resize Swin's bias tables of another window, which Swin has square ones of.

    Raises:
        ValueError: If a table is not that of a square window.
    """
    for name, module in backbone.named_modules():
        if not isinstance(module, ManifoldKeyWindowMSA):
            continue
        at = f'{prefix}{name}.relative_position_'
        table = state_dict.get(f'{at}bias_table')
        if table is None or len(table) == len(module.relative_position_bias_table):
            continue
        if not is_square(len(table)) or len(table) % 2 == 0:
            why = unknown_grid(len(table), 'window_size', module.window_size)
            raise ValueError(f'{at}bias_table {why}')
        side = (math.isqrt(len(table)) + 1) // 2
        state_dict[f'{at}bias_table'] = resize_relative_position_bias_table(
            table, (side, side), module.window_size
        )
        state_dict[f'{at}index'] = module.relative_position_index
