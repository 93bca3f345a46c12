"""How the weights of a file cover a backbone, by names and shapes, before any loads.

Everything is counted: what loads as it is, what the backbone resizes, what is missing,
what has another shape or kind, and what the backbone has no place for.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .files import CheckpointError
from .layouts import reasons
from .surplus import BUFFERS, argument_for, reason_to_drop

#: (group, pattern of parameter names); the first match counts.
GROUPS = (
    ('patch embedding', r'^patch_embed\.'),
    ('norms', r'(^|\.)(norm\d*|ln\d)\.'),
    ('key', r'\.key\.'),
    ('relative positions', r'\.rel_pos_[hw]$'),  # ViTDet's own, zero at the start
    ('attention', r'\.attn\.'),
    ('MLP', r'\.ffn\.'),
    ('positions', r'pos_embed$'),
    ('other', r''),  # patch merging, class token
)
#: What files may lack, each only as a whole: output norms, which a classifier does
#: without, and ViTDet's relative positions.
OPTIONAL = r'^(norm\d+|ln[12])\.|\.(rel_pos)_[hw]$'
#: Columns of the table.
COLUMNS = ('loaded', 'resized', 'missing', 'misshapen', 'unexpected')
#: Kinds of numbers that load, converted to the backbone's.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def group_of(name: str) -> str:
    """Group of a parameter, see :data:`GROUPS`."""
    return next(group for group, pattern in GROUPS if re.search(pattern, name))


def optional_part(name: str) -> str | None:
    """The part of :data:`OPTIONAL` that a parameter belongs to, such as 'norm0'."""
    match = re.search(OPTIONAL, name)
    return match and (match[1] or match[2])


def key_prefix(name: str) -> str | None:
    """What stands before the name of a key's parameter, and None before others'."""
    before, key, _ = name.partition('.key.')
    return before if key else None


@dataclass
class Coverage:
    """Names of parameters by what becomes of them, in the order of the backbone.

    Attributes:
        loaded (list[str]): Load as they are, converted to the backbone's dtype.
        resized (list[str]): Loaded, and resized by the backbone.
        missing (list[str]): Not in the file.
        misshapen (dict[str, str]): Of another shape or kind, with a few words on it.
        unexpected (list[str]): In the file only.
        dropped (dict[str, str]): Those of ``unexpected`` that the backbone does without
            by design, with the reason.
        arguments (dict[str, str | None]): The others, with the argument that would make
            the place.
        source (str): Where in the file the weights stood.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str | None] = field(default_factory=dict)
    source: str = ''

    def __str__(self) -> str:
        """Where the weights stood, what was left out by design, and the table."""
        left_out = f'; left out: {reasons(self.dropped)}' if self.dropped else ''
        return f'{self.source}{left_out}\n{self.table()}'

    def table(self) -> str:
        """Counts by group, as text."""
        columns = {
            name: Counter(map(group_of, getattr(self, name))) for name in COLUMNS
        }
        rows = [f'{"":20}' + ''.join(f'{name:>12}' for name in columns)]
        for group, _ in GROUPS:
            counts = [column[group] for column in columns.values()]
            if any(counts):
                rows.append(f'{group:20}' + ''.join(f'{count:12}' for count in counts))
        return '\n'.join(rows)

    def lacking(self, allow_missing: Collection[str] = ()) -> dict[str, str]:
        """What a pretrained backbone must have and this one would not.

        Args:
            allow_missing (Collection[str]): Groups that may be missing or misshapen.

        Returns:
            dict[str, str]: Names, and what is wrong with each.
        """
        begun = {None, *map(optional_part, [*self.loaded, *self.resized])}
        lost = {n: 'missing' for n in self.missing if optional_part(n) in begun}
        return {
            name: reason
            for name, reason in {**lost, **self.misshapen}.items()
            if group_of(name) not in allow_missing
        }

    def mostly_missing(self) -> bool:
        """Whether more parameters are missing in the file than are there."""
        there = len(self.loaded) + len(self.resized) + len(self.misshapen)
        return len(self.missing) > there

    def homeless(
        self,
        allow_unexpected: Collection[str] = (),
        allow_missing: Collection[str] = (),
    ) -> dict[str, str | None]:
        """Weights of a backbone that would be thrown away.

        Args:
            allow_unexpected (Collection[str]): Groups that may be.
            allow_missing (Collection[str]): With 'key' a key of the file may also be of
                another kind than the backbone's, which keeps its start.

        Returns:
            dict[str, str | None]: Names, and the argument that makes each a place.
        """
        starting = [*self.missing, *self.misshapen] if 'key' in allow_missing else []
        keys = {key_prefix(name) for name in starting} - {None}
        return {
            name: argument
            for name, argument in self.arguments.items()
            if group_of(name) not in allow_unexpected and key_prefix(name) not in keys
        }


def cover(module: nn.Module, weights: Mapping[str, Tensor]) -> Coverage:
    """Compare weights with a backbone. Nothing is loaded or changed.

    Args:
        module (nn.Module): The backbone, also on the meta device.
        weights (Mapping[str, Tensor]): Weights under the backbone's names.

    Returns:
        Coverage: What becomes of each parameter.
    """
    own = {n: v for n, v in module.state_dict().items() if not n.endswith(BUFFERS)}
    mixing = dict(resizable_mixing(module, weights))
    coverage = Coverage()
    for name, parameter in own.items():
        if name not in weights:
            coverage.missing.append(name)
            continue
        value = weights[name]
        if value.dtype not in FLOATS:
            coverage.misshapen[name] = f'{value.dtype} in the file'
        elif mixing.get(name, is_resizable(name, value, parameter)):
            coverage.resized.append(name)
        elif value.shape == parameter.shape:
            coverage.loaded.append(name)
        else:
            coverage.misshapen[name] = (
                f'{tuple(value.shape)} in the file, {tuple(parameter.shape)} here'
            )
    coverage.unexpected = [
        name for name in weights if name not in own and not name.endswith(BUFFERS)
    ]
    for name in coverage.unexpected:
        if reason := reason_to_drop(name, own):
            coverage.dropped[name] = reason
        else:
            coverage.arguments[name] = argument_for(name, own, weights)
    return coverage


def check_charts(
    module: nn.Module, weights: Mapping[str, Tensor], checkpoint: str
) -> None:
    """Raise CheckpointError if a key of the file has another number of charts."""
    for name, key in module.named_modules():
        scale = weights.get(f'{name}.scale')
        charts = getattr(key, 'num_charts', None)
        if charts is None or scale is None or scale.shape == key.scale.shape:
            continue
        if scale.dim() == 2 and scale.shape[1] == key.embed_dims:
            raise CheckpointError(
                f'{checkpoint} has {len(scale)} charts in {name} and the backbone '
                f"{charts}; charts cannot be resized, set num_charts to the file's"
            )


def resizable_mixing(
    module: nn.Module, weights: Mapping[str, Tensor]
) -> Iterator[tuple[str, bool]]:
    """SpatialK's ``conv1``, weight and bias, that stand for another square window."""
    for name, key in module.named_modules():
        names = f'{name}.conv1.weight', f'{name}.conv1.bias'
        if not getattr(key, 'needs_window', False) or not set(names) <= set(weights):
            continue
        weight, bias = (weights[part] for part in names)
        if weight.dim() != 3 or weight.shape == key.conv1.weight.shape:
            continue
        rows, tokens, _ = weight.shape
        if (
            weight.shape == (key.num_charts * tokens, tokens, 1)
            and bias.shape == (rows,)
            and bias.dtype == weight.dtype
            and is_square(tokens)
        ):
            yield from ((part, True) for part in names)


def is_square(number: int) -> bool:
    """Whether ``number`` is the area of a square grid of at least one token."""
    return number > 0 and math.isqrt(number) ** 2 == number


def is_resizable(name: str, value: Tensor, own: Tensor) -> bool:
    """Whether the backbone resizes this position table of another window or image."""
    if value.shape == own.shape or value.dim() != own.dim():
        return False
    if value.shape[-1] != own.shape[-1] or value.dim() not in (2, 3):
        return False
    rows = value.shape[-2]
    if name.endswith('relative_position_bias_table'):
        return is_square(rows) and rows % 2 == 1
    if name.endswith(('rel_pos_h', 'rel_pos_w')):
        return rows % 2 == 1
    if name.endswith('absolute_pos_embed'):
        return len(value) == 1 and is_square(rows)
    if name == 'pos_embed':  # with up to two tokens before the grid
        return len(value) == 1 and rows - math.isqrt(rows) ** 2 <= 2 and rows > 2
    return False
