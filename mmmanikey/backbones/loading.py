"""Positions in a state dict, resized to the backbone that loads it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..checkpoint.layouts.own import MMClsSwin, MMSegViT
from ..checkpoint.layouts.vit import TimmViT, ViTDet
from ..grids import FLOATS, Grid, OnGrid, extra_positions, source_grid, unknown_grid
from ..resize import resize_positions
from .structure import key_slots


def take_stock_names(weights: dict[str, Tensor], prefix: str) -> None:
    """Rename weights of old Swins, of mmseg's ViT and of ViTDet, in place.

    So the state dict of a whole model loads into one whose backbone has become ours.
    """
    theirs = {n.removeprefix(prefix): n for n in weights if n.startswith(prefix)}
    for layout in (MMClsSwin(), MMSegViT(), ViTDet(), TimmViT()):
        if layout.matches(theirs):
            found = {name: weights.pop(whole) for name, whole in theirs.items()}
            for name, value in layout.to_ours(found).weights.items():
                weights[prefix + name] = value
            return


class PositionsOnGrid(OnGrid):
    """Mixin of the backbones, which adapts all of their positions before any loads."""

    #: Name of the absolute positions, (1, N, C).
    positions = 'pos_embed'

    def adapt(
        self, weights: dict[str, Tensor], prefix: str, told: Grid | None
    ) -> Iterator[tuple[str, str]]:
        """Resize positions of another image size or window; drop or add the token's.

        A class token that comes without a position (DeiT III) gets a position of zero;
        a backbone's own class token that the weights do not bring keeps its start.
        """
        take_stock_names(weights, prefix)
        for path, layer in key_slots(self).items():
            for name, why in layer.adapt_tables(weights, f'{prefix}{path}.'):
                yield f'{path}.{name}', why
        name = self.positions
        own, positions = getattr(self, name, None), weights.get(prefix + name)
        if own is None or positions is None or positions.dim() != 3:
            return
        if positions.dtype not in FLOATS or positions.shape[::2] != own.shape[::2]:
            return
        target, rows = tuple(self.patch_resolution), positions.shape[1]
        if positions.shape == own.shape and told in (None, target):
            return
        wanted = own.shape[1] - math.prod(target)
        extras = extra_positions(weights, prefix) if name == 'pos_embed' else (0,)
        found = source_grid(rows, extras, target, told)
        if found is None:
            yield name, unknown_grid(rows, 'img_size', target)
            return
        source, num_extra = found
        extra, grid = positions[:, :num_extra], positions[:, num_extra:]
        grid = resize_positions(grid, source, target, self.interpolate_mode, 0)
        if num_extra < wanted:
            extra = own[:, :wanted].detach().to(grid)
            if f'{prefix}cls_token' in weights:
                extra = torch.zeros_like(extra)
        weights[prefix + name] = torch.cat([extra[:, :wanted], grid], dim=1)
        yield name, ''

    def _prepare_pos_embed(self, *args, **kwargs) -> None:
        """Nothing: :meth:`adapt` does what mmpretrain does in these hooks."""

    _prepare_abs_pos_embed = _prepare_relative_position_bias_table = _prepare_pos_embed
