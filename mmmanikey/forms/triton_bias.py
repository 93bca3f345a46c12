"""Relative position bias in Triton for CUDA: gathered, cast and masked at once."""

import triton
import triton.language as tl
from torch import Tensor

from . import triton_launch
from .position_bias import PositionBias, prepared
from .triton_choice import without_kernels_if_none_compile

#: Entries of a bias that a program makes.
ENTRIES = 1024


@triton.jit
def bias_kernel(
    table,
    index,
    masks,
    out,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid: blocks of entries, heads, masks."""
    entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, mask = tl.program_id(1), tl.program_id(2)
    exist = entries < SIZE
    row = tl.load(index + entries, mask=exist, other=0)
    value = tl.load(table + row * HEADS + head, mask=exist, other=0.0)
    value = value.to(out.dtype.element_ty).to(tl.float32)
    if MASKED:
        added = tl.load(masks + mask * SIZE + entries, mask=exist, other=0.0)
        value += added.to(tl.float32)
    place = out + (mask * HEADS + head) * SIZE + entries
    tl.store(place, value.to(out.dtype.element_ty), mask=exist)


class TritonBias(PositionBias):
    """:class:`PositionBias`; table and masks in float32, float16 or bfloat16."""

    __slots__ = ()

    @without_kernels_if_none_compile
    def padded(self) -> Tensor:
        table, index, masks, shifted = self
        index, _ = prepared(index, len(table))
        heads, size = table.shape[1], index.numel()
        groups = len(masks) if shifted else 1
        out = masks.new_empty((groups, heads, *index.shape))
        tensors = table.contiguous(), index, masks, out
        grid = -(-size // ENTRIES), heads, groups
        constants = dict(HEADS=heads, SIZE=size, MASKED=shifted, BLOCK=ENTRIES)
        triton_launch.launch(bias_kernel, grid, tensors, (), 4, **constants)
        return out
