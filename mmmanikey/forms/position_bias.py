"""Relative position bias of windows as PyTorch's memory-efficient kernel takes it."""

import weakref
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .pieces import sum_dtype

#: The kernel reads rows of a bias that start at multiples of so many items, see
#: ``preprocess_mask`` in aten/src/ATen/native/transformers/attention.cpp of
#: https://github.com/pytorch/pytorch.
ALIGNMENT = 8


class Pairs(NamedTuple):
    """Which of L entries of a table each pair of N tokens uses.

    Args:
        entries (Tensor): Entry of each pair, (N, A) with :func:`aligned` rows, int64.
        users (Tensor): See :func:`users_of`, (L, most users).
    """

    entries: Tensor
    users: Tensor


#: By the id of an index: itself, what tells its version, and what :func:`prepared`
#: makes of it. PyTorch's dictionary of weak tensors takes six times longer to ask.
PREPARED: dict[int, tuple[weakref.ref, tuple, Pairs]] = {}


class PositionBias(NamedTuple):
    """A table's entries for all pairs of tokens and the masks, (groups, heads, N, N).

    Each entry of the table gathers its gradient from the pairs that use it: adding up
    through an index, as PyTorch does, sorts the index every time.

    Args:
        table (Tensor): (L, num_heads), any floating dtype.
        pairs (Pairs): The pairs.
        masks (Tensor): Added to the bias, (groups, N, A) with :func:`aligned` rows;
            their dtype is the result's.
        shifted (bool): Whether any mask is not zero.
    """

    table: Tensor
    pairs: Pairs
    masks: Tensor
    shifted: bool

    def plain(self) -> Tensor:
        table, (entries, _), masks, _ = self
        bias = table[entries.flatten()].unflatten(0, entries.shape).permute(2, 0, 1)
        return (bias.to(masks) + masks[:, None])[..., : len(entries)]

    def forward(self) -> Tensor:
        return self.padded()[..., : len(self.pairs.entries)]

    def padded(self) -> Tensor:
        """As :meth:`forward`, with whatever behind each row, (groups, heads, N, A)."""
        table, (entries, _), masks, shifted = self
        bias = table.to(masks.dtype).t().index_select(1, entries.flatten())
        bias = bias.view(1, -1, *entries.shape)
        return bias + masks[:, None] if shifted else bias

    def backward(self, grad: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor]:
        table, (_, users), *_ = self
        grad = grad.sum(dim=0, dtype=sum_dtype(table)).flatten(1)  # (num_heads, N * N)
        each = F.pad(grad, (0, 1)).index_select(1, users.flatten())
        return (each.unflatten(1, users.shape).sum(dim=2).t(),)


def aligned(rows: Tensor) -> Tensor:
    """Rows (..., N) with zeros behind, to a length A that the kernel reads."""
    return F.pad(rows, (0, -rows.shape[-1] % ALIGNMENT))


def prepared(index: Tensor, entries: int) -> Pairs:
    """What an index (N, N) of so many entries says.

    Kept until the index changes, but for one made in inference mode, which does not
    tell.
    """
    if index.is_inference():
        return Pairs(aligned(index), users_of(index, entries))
    # a storage that was given by ``.data =`` counts no version
    version = index._version, index.data_ptr(), entries
    number = id(index)
    known = PREPARED.get(number)
    if known is not None and known[0]() is index and known[1] == version:
        return known[2]
    with torch.inference_mode(mode=False):  # such tensors could not train later
        made = Pairs(aligned(index), users_of(index, entries))
    itself = weakref.ref(index, lambda _: PREPARED.pop(number, None))
    PREPARED[number] = itself, version, made
    return made


def users_of(index: Tensor, entries: int) -> Tensor:
    """The pairs of an index (N, N) that use each entry, (L, most users).

    Pairs are counted over the rows; N * N fills up.
    """
    flat = index.flatten()
    counts = flat.bincount(minlength=entries)
    order = flat.argsort(stable=True)
    rank = torch.arange(len(flat), device=flat.device)
    rank = rank - (counts.cumsum(0) - counts)[flat[order]]
    users = flat.new_full((entries, int(counts.max())), len(flat))
    users[flat[order], rank] = order
    return users
