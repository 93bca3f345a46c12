"""Relative position bias in Triton for CUDA.

It is gathered, cast and masked at once, and its table's gradient is one launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_launch
from .position_bias import PositionBias
from .triton_choice import without_kernels_if_none_compile

#: Entries of a bias that a program makes.
ENTRIES = 1024
#: Entries of a table whose gradient a program makes.
ROWS = 16


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


@triton.jit
def both_entries(a, b):
    return a + b


@triton.jit
def table_gradient_kernel(
    grad,
    users,
    out,
    HEADS: tl.constexpr,
    ENTRIES: tl.constexpr,
    USERS: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Grid: blocks of entries, heads. Each adds up the pairs that use it."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns, head = tl.arange(0, BLOCK_U), tl.program_id(1)
    exist = (rows < ENTRIES)[:, None] & (columns < USERS)[None, :]
    places = rows[:, None] * USERS + columns[None, :]
    pairs = tl.load(users + places, mask=exist, other=PAIRS)
    values = tl.load(grad + head * PAIRS + pairs, mask=pairs < PAIRS, other=0.0)
    total = tl.reduce(values, 1, both_entries)
    tl.store(out + rows * HEADS + head, total, mask=rows < ENTRIES)


class TritonBias(PositionBias):
    """:class:`PositionBias`; table and masks in float32, float16 or bfloat16."""

    __slots__ = ()

    @without_kernels_if_none_compile
    def padded(self) -> Tensor:
        table, (entries, _), masks, shifted = self
        heads, size = table.shape[1], entries.numel()
        groups = len(masks) if shifted else 1
        out = masks.new_empty((groups, heads, *entries.shape))
        tensors = table.contiguous(), entries, masks, out
        grid = -(-size // ENTRIES), heads, groups
        constants = heads, size, shifted, ENTRIES
        triton_launch.launch(bias_kernel, grid, tensors, (), constants, num_warps=4)
        return out

    @without_kernels_if_none_compile
    def backward(self, grad: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor]:
        table, (_, users), *_ = self
        grad = grad.sum(dim=0, dtype=torch.float32).flatten(1)  # (num_heads, N * N)
        (entries, heads), many = table.shape, users.shape[1]
        out = grad.new_empty((entries, heads))
        grid = -(-entries // ROWS), heads, 1
        block = ROWS, triton.next_power_of_2(many)
        constants = heads, entries, many, grad.shape[1], *block
        tensors = grad, users, out
        triton_launch.launch(table_gradient_kernel, grid, tensors, (), constants, 4)
        return (out,)
