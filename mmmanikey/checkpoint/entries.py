"""What a file holds, whatever wraps it: every mapping of tensors is an entry.

Names only decide which entry is preferred, and which weights are averages over a
training (EMA).
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from .files import CheckpointError

#: Entries that are preferred where others fit as well, in this order.
PREFERRED = ('state_dict', 'model')
#: Averaged weights, by a part of the entry's or prefix's name: timm's ``model_ema``,
#: DINO's ``teacher``, MoCo's ``momentum_encoder`` and ``encoder_k``.
AVERAGED = re.compile(
    r'(^|[._])(ema|teacher|momentum|averaged|target|encoder_k)([._]|$)'
)
#: What ``torch.compile`` puts into the names of what it wraps.
COMPILED = '_orig_mod'
#: Examples in messages.
SHOWN = 3


class Entry(NamedTuple):
    """A mapping of tensors in a file."""

    name: str  # the keys that lead to it, with dots between; '' is the file
    weights: OrderedDict[str, Tensor]  # without ``_orig_mod.``
    #: For which values of ``ema`` it is wanted; None where the prefix decides.
    serves: tuple[bool, ...] | None = None

    def __str__(self) -> str:
        tops = dict.fromkeys(name.partition('.')[0] for name in self.weights)
        listed = ', '.join([*tops][:SHOWN]) + (', ...' if len(tops) > SHOWN else '')
        entry = self.name or 'the file itself'
        return f'{entry} with {len(self.weights)} tensors ({listed})'


def entries_of(content: object, checkpoint: str) -> list[Entry]:
    """Every mapping with tensors under names, however deep, preferred ones first.

    Raises CheckpointError, which names ``checkpoint``, if there is none.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{checkpoint} holds no state dict')
    found, seen, waiting = [], set(), [('', content)]
    while waiting:
        name, mapping = waiting.pop(0)
        if id(mapping) in seen:
            continue
        seen.add(id(mapping))
        tensors = {n: v for n, v in text_items(mapping) if isinstance(v, Tensor)}
        if tensors:
            found.append(Entry(name, plain_names(tensors, mapping)))
        waiting += [
            (f'{name}.{inner}' if name else inner, value)
            for inner, value in text_items(mapping)
            if isinstance(value, Mapping) and inner != 'optimizer'  # FSDP names these
        ]
    if not found:
        inside = ', '.join(map(str, [*content][: 2 * SHOWN])) or 'nothing'
        raise CheckpointError(f'{checkpoint} holds no tensors, only: {inside}')
    found.sort(key=lambda entry: preference(entry.name))
    return without_swap(found)


def text_items(mapping: Mapping) -> Iterator[tuple[str, object]]:
    """Items whose key is a text; those of an optimiser's state are numbers."""
    return ((n, v) for n, v in mapping.items() if isinstance(n, str))


def preference(entry: str) -> int:
    """Rank of an entry: its place in :data:`PREFERRED`, or after all of these."""
    last = entry.rpartition('.')[2]
    return PREFERRED.index(last) if last in PREFERRED else len(PREFERRED)


def plain_names(
    tensors: Mapping[str, Tensor], mapping: Mapping
) -> OrderedDict[str, Tensor]:
    """The tensors without ``_orig_mod.`` in their names, and the modules' versions."""
    weights = OrderedDict((without_compiled(n), v) for n, v in tensors.items())
    if isinstance(versions := getattr(mapping, '_metadata', None), Mapping):
        weights._metadata = OrderedDict(
            (without_compiled(n), v) for n, v in text_items(versions)
        )
    return weights


def without_compiled(name: str) -> str:
    """The name, or prefix, without ``_orig_mod.``."""
    return '.'.join(part for part in name.split('.') if part != COMPILED)


def without_swap(entries: list[Entry]) -> list[Entry]:
    """Mark the pair of entries that mmengine's ``EMAHook`` exchanges when it saves.

    Then ``state_dict`` holds the averaged weights, which mmengine tests and loads, and
    ``ema_state_dict``, known by its counter ``steps``, the others, to train on with
    (``before_save_checkpoint`` in https://github.com/open-mmlab/mmengine,
    mmengine/hooks/ema_hook.py). The first serves both values of ``ema``, the second
    none.
    """
    by_name = {entry.name: entry for entry in entries}
    swapped = by_name.get('ema_state_dict')
    if not swapped or 'steps' not in swapped.weights or 'state_dict' not in by_name:
        return entries
    serves = dict(state_dict=(False, True), ema_state_dict=())
    return [entry._replace(serves=serves.get(entry.name)) for entry in entries]


def served(entry: Entry, prefix: str) -> tuple[bool, ...]:
    """For which values of ``ema`` the weights under a prefix are wanted."""
    if entry.serves is not None:
        return entry.serves
    return (bool(AVERAGED.search(f'{entry.name}.{prefix}')),)


def weights_in(content: object, checkpoint: str) -> OrderedDict[str, Tensor]:
    """The state dict of a whole model in what was read, whatever wraps it.

    That is the first of :data:`PREFERRED`, else the largest entry, an averaged one only
    if there is no other. Raises CheckpointError if there is none.
    """
    return main_entry(entries_of(content, checkpoint)).weights


def main_entry(entries: Collection[Entry]) -> Entry:
    """The entry with the whole model, see :func:`weights_in`."""
    return min(
        entries,
        key=lambda entry: (
            False not in served(entry, ''),
            preference(entry.name),
            -len(entry.weights),
        ),
    )
