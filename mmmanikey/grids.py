"""The token grid that a table of positions belongs to. (Not from the paper.)

A table of positions is a flat list, in which a grid of 4 x 16 looks like one of 8 x 8.
Our modules therefore write their grid into the metadata of a state dict, beside the
version that PyTorch keeps there
(https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html, ``state_dict``).
It adds no parameter, and code that does not look for it is not affected.

Where the metadata hold no grid (files of other projects, older files, plain dicts), the
backbone's own grid is assumed if the number of positions fits, else a square one.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .arguments import is_int

Grid = tuple[int, int]

#: Names of the tokens that may stand before those of the grid.
TOKENS = ('cls_token', 'dist_token')


#: Kinds of numbers that load, converted to the module's.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OnGrid:
    """Mixin of modules with tables that belong to a grid and load from another one.

    Plain ``load_state_dict``, mmengine's loaders and
    :class:`mmmanikey.checkpoint.PretrainedBackbone` all do it by :meth:`adapt`.
    """

    def adapt(
        self, weights: dict[str, Tensor], prefix: str, told: Grid | None
    ) -> Iterator[tuple[str, str]]:
        """Resize the module's own tables, and rename what had an older name.

        What no resizing can make fit stays as it is, for the comparison of shapes.

        Args:
            weights (dict[str, Tensor]): What loads; changed in place.
            prefix (str): What the names of the module start with in it.
            told (Grid | None): The grid in the metadata of the weights, if any.

        Yields:
            tuple[str, str]: The name of a table of another grid, without the prefix,
            and why it cannot be resized, in a few words; none where it was.
        """
        raise NotImplementedError

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args, **kwargs
    ) -> None:
        for name, why in self.adapt(state_dict, prefix, told_grid(local_metadata)):
            if why:
                raise ValueError(f'{prefix}{name} {why}')
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, *args, **kwargs
        )


def adapt(
    module: nn.Module, weights: dict[str, Tensor], grids: Mapping[str, Grid]
) -> dict[str, str]:
    """Adapt weights, in place, to all the grids in a module.

    Args:
        module (nn.Module): The backbone.
        weights (dict[str, Tensor]): Weights under its names.
        grids (Mapping[str, Grid]): Those in their metadata, from ``told_grids``.

    Returns:
        dict[str, str]: What :meth:`OnGrid.adapt` yields of all modules.
    """
    found = {}
    for path, part in module.named_modules():
        if isinstance(part, OnGrid):
            prefix = f'{path}.' if path else ''
            for name, why in part.adapt(weights, prefix, grids.get(path)):
                found[prefix + name] = why
    return found


def tell_grid(module: nn.Module, attribute: str) -> None:
    """Write the grid in an attribute of a module into the module's state dicts."""
    module._register_state_dict_hook(partial(write_grid, attribute))


def write_grid(
    attribute: str,
    module: nn.Module,
    state_dict: Mapping,
    prefix: str,
    local_metadata: dict,
) -> None:
    """Write the grid into the metadata of a module."""
    local_metadata['grid'] = list(getattr(module, attribute))


def told_grids(state_dict: Mapping[str, Tensor], prefix: str = '') -> dict[str, Grid]:
    """Grids in the metadata of a state dict.

    Args:
        state_dict (Mapping[str, Tensor]): A state dict.
        prefix (str): Only modules whose names start with it. Defaults to ``''``.

    Returns:
        dict[str, Grid]: Height and width by the name of a module without the prefix.
    """
    metadata = getattr(state_dict, '_metadata', None) or {}
    return {
        f'{name}.'.removeprefix(prefix).removesuffix('.'): grid
        for name, local in metadata.items()
        if f'{name}.'.startswith(prefix) and (grid := told_grid(local)) is not None
    }


def with_grids(
    weights: Mapping[str, Tensor], grids: Mapping[str, Grid], prefix: str = ''
) -> OrderedDict[str, Tensor]:
    """A state dict of these weights, under a prefix, with these grids in its metadata.

    ``prefix`` is such as ``'backbone.'``. Defaults to ``''``.
    """
    state_dict = OrderedDict((prefix + name, v) for name, v in weights.items())
    state_dict._metadata = {
        f'{prefix}{name}'.removesuffix('.'): dict(grid=list(grid))
        for name, grid in grids.items()
    }
    return state_dict


def told_grid(local_metadata: Mapping) -> Grid | None:
    """The grid in the metadata of one module, if it is there."""
    grid = local_metadata.get('grid') if isinstance(local_metadata, Mapping) else None
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        return None
    return tuple(grid) if all(is_int(side) and side > 0 for side in grid) else None


def source_grid(
    rows: int, extras: Sequence[int], own: Grid | None, told: Grid | None
) -> tuple[Grid, int] | None:
    """The grid that a table of positions was made for.

    Args:
        rows (int): Positions in the table.
        extras (Sequence[int]): How many of them may stand before the grid, the likely
            number first.
        own (Grid | None): Grid of the backbone that loads, where there is one.
        told (Grid | None): The grid in the metadata of the weights, if there is one.

    Returns:
        tuple[Grid, int] | None: The grid, and how many positions stand before it; None
        if it cannot be known.
    """
    if told is not None:
        extra = rows - math.prod(told)
        return (told, extra) if 0 <= extra <= len(TOKENS) else None
    for extra in extras:
        may_be_own = own is not None and extra <= extras[0]
        if may_be_own and rows - extra == math.prod(own):
            return own, extra
        if is_square(rows - extra):
            side = math.isqrt(rows - extra)
            return (side, side), extra
    return None


def extra_positions(names: Mapping[str, Tensor], prefix: str = '') -> Sequence[int]:
    """How many positions of a ViT may stand before its grid, the likely number first.

    Every class or distillation token has one, except in DeiT III and models alike;
    files of ViTDet keep that of a class token which they no longer have.
    """
    tokens = sum(f'{prefix}{token}' in names for token in TOKENS)
    return (tokens, 0) if tokens else (0, 1)


def is_square(number: int) -> bool:
    """Whether ``number`` is the area of a square grid of at least one token."""
    return number > 0 and math.isqrt(number) ** 2 == number


def window_side(table: Tensor) -> int | None:
    """Side of the square window that a bias table of Swin is for, if it is one."""
    side = math.isqrt(len(table))
    return (side + 1) // 2 if side**2 == len(table) and side % 2 else None


def unknown_grid(rows: int, argument: str, own: Grid) -> str:
    """Why a table whose grid is neither told nor square cannot load, and the remedy.

    Args:
        rows (int): Its length.
        argument (str): The argument that has to be the checkpoint's.
        own (Grid): The grid that it makes here.
    """
    return (
        f'has {rows} rows, which belong to no square grid, and the weights do not tell '
        f'to which: set {argument} to the one that they were trained with; here it '
        f'makes {own[0]} x {own[1]}'
    )
