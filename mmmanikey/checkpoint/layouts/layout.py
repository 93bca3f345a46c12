"""Renaming of weights by tables of names, with nothing left over silently."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

#: What stands for a part of a name in a table: two numbers, and a parameter's kind.
PLACEHOLDERS = dict(i=r'\d+', j=r'\d+', p='weight|bias')

#: What stands beside a backbone in files of many projects, and is known to be no part
#: of it: (how the name starts, why it is left out).
BESIDE = (
    (r'(mask_token|masked_embed)$', 'used in pretraining alone'),
    (r'\w*(decoder|projector|predictor)', 'used in pretraining alone'),
    (r'\w*(head|classifier)\w*\.|(fc|cls|linear)\.', 'head'),
    (r'\w*(neck|fpn)\w*\.', 'neck'),
    (r'data_preprocessor\.', 'preprocessing'),
)

Table = Sequence[tuple[str, str]]


class Conversion(NamedTuple):
    """Weights under other names, and what had no place among them."""

    weights: dict[str, Tensor]  # the converted state dict
    dropped: dict[str, str]  # why each name of the source is not in it


@functools.lru_cache(maxsize=512)
def pattern_of(template: str) -> re.Pattern:
    """Regular expression of a name in a table, such as ``'blocks.{i}.norm1.{p}'``."""
    pattern = re.escape(template)
    for key, values in PLACEHOLDERS.items():
        pattern = pattern.replace(rf'\{{{key}\}}', f'(?P<{key}>{values})')
    return re.compile(pattern)


def inverse(table: Table) -> Table:
    """The table of the way back."""
    return [(target, source) for source, target in table]


def below(theirs: str, ours: str, table: Table) -> Table:
    """The table of a module, for one that stands under these names in a network."""
    return [(f'{theirs}.{name}', f'{ours}.{new}') for name, new in table]


def rename(
    state_dict: Mapping[str, Tensor],
    table: Table,
    dropped: Iterable[tuple[str, str]],
    target: str,
) -> Conversion:
    """Rename every weight by a table, or leave it out for a stated reason.

    In ``table`` (name, new name) the first match counts, with ``{i}``, ``{j}`` and
    ``{p}`` as in :data:`PLACEHOLDERS`. Weights that get the same new name, such as
    query, key and value, are concatenated over their first dimension in the order of
    the table. ``dropped`` are (how a name starts, why it is left out) of others. What
    is in neither raises ValueError, which names the ``target``.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    left_out, unknown = {}, []
    for name, value in state_dict.items():
        for row, (source, new) in enumerate(table):
            if match := pattern_of(source).fullmatch(name):
                parts.setdefault(new.format(**match.groupdict()), {})[row] = value
                break
        else:
            reasons = (why for start, why in dropped if re.match(start, name))
            if reason := next(reasons, None):
                left_out[name] = reason
            else:
                unknown.append(name)
    if unknown:
        raise ValueError(
            f'{target} has no place for {len(unknown)} of the weights, such as '
            f'{unknown[0]}'
        )
    converted = {
        name: concatenate([rows[row] for row in sorted(rows)], name)
        for name, rows in parts.items()
    }
    return Conversion(converted, left_out)


def concatenate(parts: Sequence[Tensor], name: str) -> Tensor:
    """Parts of the weight ``name`` over their first dimension; one stays as it is."""
    if len(parts) == 1:
        return parts[0]
    kinds = {(part.dtype, part.shape[1:]) for part in parts}
    if len(kinds) > 1 or not all(part.dim() for part in parts):
        shapes = ', '.join(f'{tuple(part.shape)} {part.dtype}' for part in parts)
        raise ValueError(f'the parts of {name} do not fit together: {shapes}')
    return torch.cat(list(parts))


def count_reasons(dropped: Mapping[str, str]) -> str:
    """How many weights were left out for which reason, as text."""
    counts = Counter(dropped.values())
    return ', '.join(f'{count} ({reason})' for reason, count in counts.items())


class Layout:
    """How a project names and orders the weights of a Swin or a ViT.

    A layout with a way back has a ``from_ours(state_dict)`` as well.
    """

    #: What it is called in logs.
    name: ClassVar[str]
    #: Their name of the patch embedding's weight, by which backbones are found.
    patch_embedding: ClassVar[str]
    #: How the name of a weight of the first attention layer starts.
    attention: ClassVar[str]
    #: (their name, our name) of the weights.
    table: ClassVar[Table] = ()
    #: (how their name starts, why it is left out), for names that are not in the table.
    dropped: ClassVar[Table] = BESIDE
    #: Which of our backbones has the weights, for errors.
    target: ClassVar[str] = 'our ViT'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        return self.patch_embedding in state_dict and any(
            name.startswith(self.attention) for name in state_dict
        )

    def table_of(self, state_dict: Mapping[str, Tensor]) -> Table:
        """(Their name, our name) of the weights of this network."""
        return self.table

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert to a backbone of ours; raises ValueError if a weight has no place."""
        table = self.table_of(state_dict)
        weights, dropped = rename(state_dict, table, self.dropped, self.target)
        return Conversion(self.reordered(weights), dropped)

    def reordered(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under our names, with their values in our order."""
        return weights
