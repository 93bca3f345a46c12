"""Renaming of weights by tables of names, with nothing left over silently."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

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
    """Weights under other names, and what had no place among them.

    Args:
        weights (dict[str, Tensor]): The converted state dict.
        dropped (dict[str, str]): Why each name of the source is not in it.
    """

    weights: dict[str, Tensor]
    dropped: dict[str, str]


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


def rename(
    state_dict: Mapping[str, Tensor],
    table: Table,
    dropped: Iterable[tuple[str, str]],
    target: str,
) -> Conversion:
    """Rename every weight by a table, or leave it out for a stated reason.

    Args:
        state_dict (Mapping[str, Tensor]): Weights. Not changed.
        table (Sequence[tuple[str, str]]): (name, new name), with ``{i}``, ``{j}`` and
            ``{p}`` as in :data:`PLACEHOLDERS`; the first match counts.
        dropped (Iterable[tuple[str, str]]): (pattern of how a name starts, why it is
            left out), for names that are not in the table.
        target (str): Where the weights go, for the error.

    Returns:
        Conversion: The renamed weights, the same tensors.

    Raises:
        ValueError: If a name is neither in the table nor to be left out.
    """
    converted, left_out, unknown = {}, {}, []
    for name, value in state_dict.items():
        for source, new in table:
            if match := pattern_of(source).fullmatch(name):
                converted[new.format(**match.groupdict())] = value
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
    return Conversion(converted, left_out)


def refuse_manifold_key(state_dict: Mapping[str, Tensor], target: str) -> None:
    """Raise ValueError if a layer's key is a manifold, which ``target`` cannot hold."""
    if name := next((name for name in state_dict if '.key.' in name), None):
        raise ValueError(
            f'the backbone has a manifold key, which {target} has no place for: {name}'
        )
