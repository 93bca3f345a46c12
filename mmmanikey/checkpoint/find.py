"""Where the backbone stands in a file, whatever its prefix.

Every name in an entry (see :mod:`.entries`) that ends with the patch embedding of a
known layout (see :mod:`.layouts`) gives a prefix. The entry and prefix whose weights
fit best are taken.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..grids import told_grids, with_grids
from .entries import SHOWN, Entry, entries_of, main_entry, served, without_compiled
from .files import CheckpointError
from .layouts import LAYOUTS, count_reasons, find_layout

#: Our name of the patch embedding's weight.
PATCH_EMBEDDING = 'patch_embed.projection.weight'
#: The norm before a classifier's head, in the files that mmdet and mmseg read.
CLASSIFIER_NORM = ('norm.weight', 'norm.bias')


@dataclass
class Found:
    """A backbone that was found in a file."""

    entry: str  # that it stands in, '' for the file itself
    prefix: str  # of its names there
    serves: tuple[bool, ...]  # for which values of ``ema`` it is wanted
    layout: str | None  # None if no layout matches
    count: int  # of its tensors in the file
    beside: list[str]  # names of the entry that do not start with the prefix
    weights: dict[str, Tensor]  # under our names
    dropped: dict[str, str]  # why the layout left out which names, without prefix
    score: int = 0  # how well it fits
    error: str | None = None  # why it cannot be converted
    others: list[str] = field(default_factory=list)  # what else was found, in words
    only_averaged: bool = False  # averaged weights are taken for want of others

    def place(self) -> str:
        """Entry and prefix in words."""
        prefix = f'prefix {self.prefix!r}' if self.prefix else 'no prefix'
        averaged = ', averaged weights' if True in self.serves else ''
        only = ' (there are no others)' if self.only_averaged else ''
        return f'{self.entry or "the file itself"}, {prefix}{averaged}{only}'

    def __str__(self) -> str:
        parts = [f'{self.place()}, {self.layout or "unknown"} layout']
        if self.others:
            parts.append(f'offered besides: {" | ".join(self.others)}')
        if self.dropped:
            parts.append(f'left out: {count_reasons(self.dropped)}')
        return '; '.join(parts)


def find_backbone(
    content: object,
    checkpoint: str,
    prefix: str | None = None,
    ema: bool = False,
    fit: Callable[[Mapping[str, Tensor]], int] | None = None,
    names: Collection[str] = (),
    leave_out: Collection[str] = (),
) -> Found:
    """Find the weights of a Swin or ViT in what was read.

    Args:
        content (object): From :func:`.read_checkpoint`.
        checkpoint (str): Its name, for errors.
        prefix (str, optional): What the backbone's names start with. None finds it.
        ema (bool): Take averaged weights, else only where there are no others.
        fit (Callable, optional): How many of the weights, under our names, the backbone
            that is to load them can take. None counts them all.
        names (Collection[str]): Names of that backbone's parameters, by which it is
            found where the patch embedding is missing.
        leave_out (Collection[str]): Names behind the prefix that are left out.

    Raises:
        CheckpointError: If there is none, or it cannot be converted.
    """
    entries = entries_of(content, checkpoint)
    if prefix is None:
        missing = 'no Swin or ViT whose names are known here'
        places = [(e, start) for e in entries for start in prefixes(e.weights, names)]
        found = [take(entry, start, fit, leave_out, names) for entry, start in places]
        found = [one for one in found if one.layout] or [o for o in found if o.score]
    else:
        missing = f'nothing under the prefix {prefix!r}'
        prefix = without_compiled(prefix)
        found = [take(entry, prefix, fit, leave_out, names) for entry in entries]
        found = [one for one in found if one.count]
    if not found:
        largest = sorted(entries, key=lambda entry: -len(entry.weights))
        listed = '; '.join(map(str, largest[:SHOWN]))
        example = next(iter(main_entry(entries).weights))
        raise CheckpointError(
            f'{checkpoint} holds {missing}; its entries: {listed}, the first name is '
            f'{example}'
        )
    wanted = [one for one in found if ema in one.serves]
    if ema and not wanted:
        raise CheckpointError(
            f'{checkpoint} holds no averaged weights of a backbone (ema=True); found: '
            f'{" | ".join(one.place() for one in found)}'
        )
    best = max(wanted or found, key=lambda one: one.score)
    if best.error:
        raise CheckpointError(f'{checkpoint} cannot be converted: {best.error}')
    best.only_averaged = not wanted
    # by identity: detectron2's ViTDet is found twice, with and without its 'net.'
    patch = best.weights.get(PATCH_EMBEDDING)
    best.others = [
        one.place()
        for one in found
        if one is not best and one.weights.get(PATCH_EMBEDDING) is not patch
    ]
    return best


def prefixes(weights: Mapping[str, Tensor], names: Collection[str]) -> list[str]:
    """What may stand before a backbone's names, shortest first.

    That is what stands before the patch embedding of any layout, and what stands before
    the most of ``names``, by which a backbone without a patch embedding is found.
    """
    ends = {layout.patch_embedding for layout in LAYOUTS}
    found = {
        name.removesuffix(end)
        for name in weights
        for end in ends
        if f'.{name}'.endswith(f'.{end}')
    }
    counts = Counter(
        '.'.join([*parts[:i], ''])
        for parts in (name.split('.') for name in weights)
        for i in range(len(parts))
        if '.'.join(parts[i:]) in names
    )
    found |= {start for start, _ in counts.most_common(1)}
    return sorted(found, key=lambda start: (len(start), start))


def take(
    entry: Entry,
    prefix: str,
    fit: Callable[[Mapping[str, Tensor]], int] | None,
    leave_out: Collection[str],
    names: Collection[str],
) -> Found:
    """The weights of an entry under a prefix, rated, and converted to ours.

    A backbone that bears the names of the file itself takes them as they are.
    """
    below = {
        name.removeprefix(prefix): value
        for name, value in entry.weights.items()
        if name.startswith(prefix) and name.removeprefix(prefix) not in leave_out
    }
    layout = find_layout(below)
    weights, dropped, error = below, {}, None
    if layout:
        try:
            weights, dropped = layout.to_ours(below)
        except (ValueError, RuntimeError, IndexError) as reason:  # or damaged shapes
            weights, error = {}, str(reason)
        if layout.matches(dict.fromkeys(names)):
            weights = {n: value for n, value in below.items() if n not in dropped}
    weights = with_grids(weights, told_grids(entry.weights, prefix))
    score = fit(weights) if fit else len(weights) * bool(layout)
    return Found(
        entry=entry.name,
        prefix=prefix,
        serves=served(entry, prefix),
        layout=layout and layout.name,
        count=len(below),
        beside=[name for name in entry.weights if not name.startswith(prefix)],
        weights=weights,
        dropped=dropped,
        score=score,
        error=error,
    )
