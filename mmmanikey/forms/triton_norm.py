"""Layer normalisation into windows, with casts and its gradients, in Triton for CUDA.

PyTorch normalises in float32, casts and gathers in three launches and as many passes
over memory, and needs six for the gradient. Each of them is one here.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_launch
from .norm import Norm
from .triton_choice import without_kernels_if_none_compile

#: Values that a program holds at once, in rows of tokens.
VALUES = 2048
WARPS = 4
#: Programs that share the parameters' gradients: several for each multiprocessor of a
#: large GPU. One number for all, so that sums do not depend on the GPU's size.
PROGRAMS = 512


@triton.jit
def both_of(a, b):
    return a + b


@triton.jit
def load_rows(x, rows, exist, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Some rows in float32, zeros where there are none; and their offsets and mask."""
    channels = tl.arange(0, BLOCK_C)
    offsets = rows[:, None] * C + channels[None, :]
    mask = exist[:, None] & (channels < C)[None, :]
    return tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32), offsets, mask


@triton.jit
def load_channels(x, C: tl.constexpr, BLOCK_C: tl.constexpr):
    channels = tl.arange(0, BLOCK_C)
    return tl.load(x + channels, mask=channels < C, other=0.0).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=['slots', 'count'])
def norm_kernel(
    x,
    weight,
    bias,
    tokens,
    out,
    mean,
    rstd,
    slots,
    count,
    EPS: tl.constexpr,
    GATHERS: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: blocks of slots. Slot s gets token tokens[s], zeros where it is ``count``.

    mean and rstd (count) are of tokens.
    """
    some = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exist = some < slots
    rows = some
    if GATHERS:
        rows = tl.load(tokens + some, mask=exist, other=0)
    real = exist & (rows < count)
    values, _, mask = load_rows(x, rows, real, C, BLOCK_C)
    middle = tl.reduce(values, 1, both_of) / C
    centred = tl.where(mask, values - middle[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.reduce(centred * centred, 1, both_of) / C + EPS)
    tl.store(mean + rows, middle, mask=real)
    tl.store(rstd + rows, inverse, mask=real)
    scaled = centred * inverse[:, None] * load_channels(weight, C, BLOCK_C)
    result = tl.where(mask, scaled + load_channels(bias, C, BLOCK_C), 0.0)
    channels = tl.arange(0, BLOCK_C)
    places = some[:, None] * C + channels[None, :]
    inside = exist[:, None] & (channels < C)[None, :]
    tl.store(out + places, result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['count'])
def norm_gradient_kernel(
    x,
    weight,
    grad,
    places,
    more,
    mean,
    rstd,
    grad_x,
    shares,
    count,
    GATHERS: tl.constexpr,
    ADDS: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: programs, each of which takes some blocks of tokens.

    The gradient of token t is in row places[t]; what is in ``more`` is added to that
    of x. Shares are those of the gradients of weight and bias, (programs, 2, C).
    """
    factor = load_channels(weight, C, BLOCK_C)
    for_weight = tl.full((BLOCK_R, BLOCK_C), 0.0, tl.float32)
    for_bias = tl.full((BLOCK_R, BLOCK_C), 0.0, tl.float32)
    first, blocks = tl.program_id(0).to(tl.int64), (count + BLOCK_R - 1) // BLOCK_R
    for block in range(first, blocks, tl.num_programs(0)):
        rows = block * BLOCK_R + tl.arange(0, BLOCK_R)
        exist = rows < count
        slots = rows
        if GATHERS:
            slots = tl.load(places + rows, mask=exist, other=0)
        outer, _, _ = load_rows(grad, slots, exist, C, BLOCK_C)
        values, offsets, mask = load_rows(x, rows, exist, C, BLOCK_C)
        middle = tl.load(mean + rows, mask=exist, other=0.0)[:, None]
        inverse = tl.load(rstd + rows, mask=exist, other=0.0)[:, None]
        normed = tl.where(mask, (values - middle) * inverse, 0.0)
        for_weight += outer * normed
        for_bias += outer
        outer = outer * factor
        along = tl.reduce(outer * normed, 1, both_of)[:, None] / C
        middle = tl.reduce(outer, 1, both_of)[:, None] / C
        inner = (outer - middle - normed * along) * inverse
        if ADDS:
            inner += tl.load(more + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x + offsets, inner.to(grad_x.dtype.element_ty), mask=mask)
    channels = tl.arange(0, BLOCK_C)
    share = shares + tl.program_id(0) * 2 * C + channels
    tl.store(share, tl.reduce(for_weight, 0, both_of), mask=channels < C)
    tl.store(share + C, tl.reduce(for_bias, 0, both_of), mask=channels < C)


class TritonNorm(Norm):
    """:class:`Norm` by kernels; x and parameters in float32, float16 or bfloat16."""

    __slots__ = ()

    @without_kernels_if_none_compile
    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias, eps, grid, dtype = self
        x = x.contiguous()
        count, dims = x.shape
        if grid is None:
            slots, tokens, shape = count, x, x.shape
        else:
            tokens, shape = grid.tokens, (*grid.tokens.shape, dims)
            slots = tokens.numel()
        out = x.new_empty(shape, dtype=dtype)
        mean = x.new_empty((count, 1), dtype=torch.float32)
        rstd = torch.empty_like(mean)
        tensors = x, weight.contiguous(), bias.contiguous(), tokens, out, mean, rstd
        block = block_of(dims)
        triton_launch.launch(
            *(norm_kernel, (-(-slots // block['BLOCK_R']), 1, 1), tensors),
            *((slots, count), WARPS),
            EPS=eps,
            GATHERS=grid is not None,
            **block,
        )
        return out, mean, rstd

    @without_kernels_if_none_compile
    def backward(
        self,
        grad: Tensor,
        needed: tuple[bool, ...],
        mean: Tensor,
        rstd: Tensor,
        more: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        x, weight, _, _, grid, _ = self
        x, grad = x.contiguous(), grad.contiguous()
        count, dims = x.shape
        block = block_of(dims)
        programs = max(1, min(PROGRAMS, -(-count // block['BLOCK_R'])))
        grad_x = torch.empty_like(x)
        shares = x.new_empty((programs, 2, dims), dtype=torch.float32)
        places = x if grid is None else grid.places
        added = x if more is None else more.contiguous()
        tensors = x, weight.contiguous(), grad, places, added, mean, rstd
        triton_launch.launch(
            *(norm_gradient_kernel, (programs, 1, 1), (*tensors, grad_x, shares)),
            *((count,), WARPS),
            GATHERS=grid is not None,
            ADDS=more is not None,
            **block,
        )
        of_weight, of_bias = shares.sum(dim=0).to(weight.dtype).unbind()
        return grad_x, of_weight, of_bias


@lru_cache(maxsize=64)
def block_of(dims: int) -> dict[str, int]:
    """Channels, and the rows and the channels with padding that a program holds."""
    channels = triton.next_power_of_2(dims)
    return dict(C=dims, BLOCK_R=max(1, VALUES // channels), BLOCK_C=channels)
