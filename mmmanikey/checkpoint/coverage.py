"""How the weights of a file cover a backbone, by names and shapes, before any loads.

Everything is counted: what loads as it is, what the backbone resizes, what is missing,
what has another shape or kind, and what the backbone has no place for.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..grids import FLOATS, adapt, told_grids
from ..keys import ManifoldKey
from .files import CheckpointError
from .layouts import count_reasons
from .surplus import BUFFERS, argument_for, reason_to_drop

#: (group, pattern of parameter names); the first match counts.
GROUPS = (
    ('patch embedding', r'^patch_embed\.'),
    ('key', r'\.key\.'),  # whatever a user's key consists of
    ('norms', r'(^|\.)(norm\d*|ln\d)\.'),
    ('relative positions', r'\.rel_pos_[hw]$'),  # ViTDet's own, zero at the start
    ('attention', r'\.attn\.'),
    ('MLP', r'\.ffn\.'),
    ('positions', r'pos_embed$'),
    ('other', r''),  # patch merging, class token
)
#: What files may lack, each only as a whole, besides a residual key: output norms,
#: which a classifier does without, ViTDet's relative positions, and the fifth stage of
#: a Swin, which detectors put on public ones of four.
OPTIONAL = (
    ('{0}', r'^(norm\d+|ln[12])\.'),
    ('relative positions', r'\.rel_pos_[hw]$'),
    ('fifth stage', r'^stages\.(3\.downsample|4)\.'),
)
#: Columns of the table.
COLUMNS = ('loaded', 'resized', 'missing', 'misshapen', 'unexpected')


def group_of(name: str) -> str:
    """Group of a parameter, see :data:`GROUPS`."""
    return next(group for group, pattern in GROUPS if re.search(pattern, name))


@dataclass
class Coverage:
    """Names of parameters by what becomes of them, in the order of the backbone."""

    loaded: list[str] = field(default_factory=list)  # as they are, in our dtype
    resized: list[str] = field(default_factory=list)  # by the backbone
    missing: list[str] = field(default_factory=list)  # in the file
    #: Of another shape or kind, with a few words on it.
    misshapen: dict[str, str] = field(default_factory=dict)
    #: In the file only: what the backbone does without by design, with the reason, ...
    dropped: dict[str, str] = field(default_factory=dict)
    #: ... and the others, with the argument that would make the place.
    arguments: dict[str, str | None] = field(default_factory=dict)
    residual_keys: list[str] = field(default_factory=list)  # those of the backbone
    source: str = ''  # where in the file the weights stood

    @property
    def unexpected(self) -> list[str]:
        """In the file only."""
        return [*self.dropped, *self.arguments]

    def __str__(self) -> str:
        """Where the weights stood, what was left out or starts at zero, the table."""
        text = self.source
        if self.dropped:
            text += f'; left out: {count_reasons(self.dropped)}'
        if starting := self.starting_keys():
            all_start = len(starting) == len(self.residual_keys)
            names = f'all {len(starting)}' if all_start else ', '.join(starting)
            text += f'; residual keys that are not in the file start at zero: {names}'
        return f'{text}\n{self.table()}'

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

    def residual_key_of(self, name: str) -> str | None:
        """The residual key that a parameter belongs to."""
        return next((k for k in self.residual_keys if name.startswith(f'{k}.')), None)

    def part_of(self, name: str) -> str | None:
        """What a parameter belongs to that may be missing, but only as a whole."""
        if key := self.residual_key_of(name):
            return key
        matches = ((part, re.search(pattern, name)) for part, pattern in OPTIONAL)
        return next((p.format(*match.groups()) for p, match in matches if match), None)

    def parts_begun(self) -> set[str | None]:
        """Those of which something is in the file; and None, what must be there."""
        there = [*self.loaded, *self.resized, *self.misshapen]
        return {None, *map(self.part_of, there)}

    def starting_keys(self) -> list[str]:
        """Residual keys of which nothing is in the file: they start at zero."""
        begun = self.parts_begun()
        return [key for key in self.residual_keys if key not in begun]

    def lacking(self, allow_missing: Collection[str] = ()) -> dict[str, str]:
        """What a pretrained backbone must have and this one would not, and why.

        ``allow_missing`` are groups that may be missing or misshapen.
        """
        begun = self.parts_begun()
        lost = {n: 'missing' for n in self.missing if self.part_of(n) in begun}
        return {
            name: reason
            for name, reason in {**lost, **self.misshapen}.items()
            if group_of(name) not in allow_missing
        }

    def mostly_missing(self) -> bool:
        """Whether more parameters are missing in the file than are there."""
        there = len(self.loaded) + len(self.resized) + len(self.misshapen)
        return len(self.missing) > there

    def unplaced(self, allow_unexpected: Collection[str] = ()) -> dict[str, str | None]:
        """Weights that would be thrown away, and the argument that makes a place.

        ``allow_unexpected`` are groups that may be.
        """
        return {
            name: argument
            for name, argument in self.arguments.items()
            if group_of(name) not in allow_unexpected
        }


def cover(
    module: nn.Module, weights: Mapping[str, Tensor]
) -> tuple[Coverage, dict[str, Tensor]]:
    """What becomes of weights, under a backbone's names, and the weights as they fit.

    Nothing is loaded.
    """
    own = {n: v for n, v in module.state_dict().items() if not n.endswith(BUFFERS)}
    adapted = dict(weights)
    resized = adapt(module, adapted, told_grids(weights))
    coverage = Coverage(
        residual_keys=[
            name
            for name, part in module.named_modules()
            if isinstance(part, ManifoldKey) and part.residual
        ]
    )
    for name, parameter in own.items():
        if name not in adapted:
            coverage.missing.append(name)
            continue
        value = adapted[name]
        if value.dtype != parameter.dtype and value.dtype not in FLOATS:
            coverage.misshapen[name] = f'{value.dtype} in the file'
        elif why := resized.get(name):
            coverage.misshapen[name] = why
        elif value.shape != parameter.shape:
            coverage.misshapen[name] = (
                f'{tuple(value.shape)} in the file, {tuple(parameter.shape)} here'
            )
        else:
            (coverage.resized if name in resized else coverage.loaded).append(name)
    for name in weights:
        if name in own or name.endswith(BUFFERS):
            continue
        if reason := reason_to_drop(name, own):
            coverage.dropped[name] = reason
        else:
            coverage.arguments[name] = argument_for(name, own, weights)
    return coverage, adapted


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
