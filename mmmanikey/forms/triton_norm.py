"""A block's norms in Triton for CUDA, with all that stands before and behind them.

PyTorch adds, normalises in float32, casts and gathers in several launches, each of
which is a pass over memory. Here a norm is one of each, and so is its gradient.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_launch
from .norm import ResidualNorm, WindowNorm
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
def row_offsets(rows, exist, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Where some rows stand, and what of them exists."""
    channels = tl.arange(0, BLOCK_C)
    offsets = rows[:, None] * C + channels[None, :]
    return offsets, exist[:, None] & (channels < C)[None, :]


@triton.jit
def load_float(x, offsets, mask):
    """In float32, zeros where there is nothing."""
    return tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_channels(x, C: tl.constexpr, BLOCK_C: tl.constexpr):
    channels = tl.arange(0, BLOCK_C)
    return load_float(x, channels, channels < C)[None, :]


@triton.jit
def normalise(x, mask, EPS: tl.constexpr, C: tl.constexpr):
    """Rows with mean 0 and deviation 1, their means and inverse deviations."""
    mean = tl.reduce(x, 1, both_of) / C
    x = tl.where(mask, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.reduce(x * x, 1, both_of) / C + EPS)
    return x * rstd[:, None], mean, rstd


@triton.jit
def load_normed(x, mean, rstd, rows, exist, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows with what was kept of them: normalised, and their inverse deviations."""
    offsets, mask = row_offsets(rows, exist, C, BLOCK_C)
    middle = load_float(mean, rows, exist)[:, None]
    rstd = load_float(rstd, rows, exist)
    x = (load_float(x, offsets, mask) - middle) * rstd[:, None]
    return tl.where(mask, x, 0.0), rstd


@triton.jit
def gradient_of(grad, normed, weight, rstd, C: tl.constexpr):
    """Of what was normalised."""
    grad = grad * weight
    along = tl.reduce(grad * normed, 1, both_of)[:, None] / C
    mean = tl.reduce(grad, 1, both_of)[:, None] / C
    return (grad - mean - normed * along) * rstd[:, None]


@triton.jit
def store_shares(shares, weight, bias, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """What a program adds to the parameters' gradients, of (programs, 2, C)."""
    channels = tl.arange(0, BLOCK_C)
    share = shares + tl.program_id(0) * 2 * C + channels
    tl.store(share, tl.reduce(weight, 0, both_of), mask=channels < C)
    tl.store(share + C, tl.reduce(bias, 0, both_of), mask=channels < C)


@triton.jit(do_not_specialize=['slots', 'count'])
def window_norm_kernel(
    x,
    weight,
    bias,
    tokens,
    out,
    statistics,
    slots,
    count,
    EPS: tl.constexpr,
    KEEPS: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: blocks of slots. Slot s gets token tokens[s], zeros where it is ``count``.

    Statistics, (2, count), are the means and the inverse deviations of tokens.
    """
    some = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exist = some < slots
    rows = tl.load(tokens + some, mask=exist, other=0)
    real = exist & (rows < count)
    offsets, mask = row_offsets(rows, real, C, BLOCK_C)
    normed, mean, rstd = normalise(load_float(x, offsets, mask), mask, EPS, C)
    if KEEPS:
        tl.store(statistics + rows, mean, mask=real)
        tl.store(statistics + count + rows, rstd, mask=real)
    result = normed * load_channels(weight, C, BLOCK_C)
    result = tl.where(mask, result + load_channels(bias, C, BLOCK_C), 0.0)
    offsets, mask = row_offsets(some, exist, C, BLOCK_C)
    tl.store(out + offsets, result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['count'])
def window_norm_gradient_kernel(
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
    ADDS: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: programs, each of which takes some blocks of tokens.

    The gradient of token t is in row places[t]; ``more`` is added to that of x.
    """
    factor = load_channels(weight, C, BLOCK_C)
    for_weight = tl.full((BLOCK_R, BLOCK_C), 0.0, tl.float32)
    for_bias = tl.full((BLOCK_R, BLOCK_C), 0.0, tl.float32)
    first, blocks = tl.program_id(0).to(tl.int64), (count + BLOCK_R - 1) // BLOCK_R
    for block in range(first, blocks, tl.num_programs(0)):
        rows = block * BLOCK_R + tl.arange(0, BLOCK_R)
        exist = rows < count
        offsets, mask = row_offsets(rows, exist, C, BLOCK_C)
        normed, inverse = load_normed(x, mean, rstd, rows, exist, C, BLOCK_C)
        slots = tl.load(places + rows, mask=exist, other=0)
        windows, _ = row_offsets(slots, exist, C, BLOCK_C)
        outer = load_float(grad, windows, mask)
        for_weight += outer * normed
        for_bias += outer
        inner = gradient_of(outer, normed, factor, inverse, C)
        if ADDS:
            inner += load_float(more, offsets, mask)
        tl.store(grad_x + offsets, inner.to(grad_x.dtype.element_ty), mask=mask)
    store_shares(shares, for_weight, for_bias, C, BLOCK_C)


@triton.jit(do_not_specialize=['count', 'per_image'])
def residual_norm_kernel(
    x,
    branch,
    drop,
    weight,
    bias,
    places,
    total,
    out,
    statistics,
    count,
    per_image,
    EPS: tl.constexpr,
    KEEPS: tl.constexpr,
    DROPS: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: blocks of tokens. What is added to token t is in row places[t]."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exist = rows < count
    offsets, mask = row_offsets(rows, exist, C, BLOCK_C)
    slots = tl.load(places + rows, mask=exist, other=0)
    windows, _ = row_offsets(slots, exist, C, BLOCK_C)
    added = load_float(branch, windows, mask)
    if DROPS:
        added = added * load_float(drop, rows // per_image, exist)[:, None]
        added = added.to(branch.dtype.element_ty).to(tl.float32)
    result = load_float(x, offsets, mask) + added
    result = result.to(total.dtype.element_ty)
    tl.store(total + offsets, result, mask=mask)
    normed, mean, rstd = normalise(result.to(tl.float32), mask, EPS, C)
    if KEEPS:
        tl.store(statistics + rows, mean, mask=exist)
        tl.store(statistics + count + rows, rstd, mask=exist)
    result = normed * load_channels(weight, C, BLOCK_C)
    result += load_channels(bias, C, BLOCK_C)
    tl.store(out + offsets, result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['count', 'per_image'])
def residual_norm_gradient_kernel(
    x,
    drop,
    weight,
    of_sum,
    grad,
    places,
    mean,
    rstd,
    grad_x,
    grad_branch,
    shares,
    count,
    per_image,
    DROPS: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: programs, each of which takes some blocks of tokens; x is the sum."""
    factor = load_channels(weight, C, BLOCK_C)
    for_weight = tl.full((BLOCK_R, BLOCK_C), 0.0, tl.float32)
    for_bias = tl.full((BLOCK_R, BLOCK_C), 0.0, tl.float32)
    first, blocks = tl.program_id(0).to(tl.int64), (count + BLOCK_R - 1) // BLOCK_R
    for block in range(first, blocks, tl.num_programs(0)):
        rows = block * BLOCK_R + tl.arange(0, BLOCK_R)
        exist = rows < count
        offsets, mask = row_offsets(rows, exist, C, BLOCK_C)
        normed, inverse = load_normed(x, mean, rstd, rows, exist, C, BLOCK_C)
        outer = load_float(grad, offsets, mask)
        for_weight += outer * normed
        for_bias += outer
        inner = gradient_of(outer, normed, factor, inverse, C)
        inner += load_float(of_sum, offsets, mask)
        inner = inner.to(grad_x.dtype.element_ty)
        tl.store(grad_x + offsets, inner, mask=mask)
        inner = inner.to(tl.float32)
        if DROPS:
            inner = inner * load_float(drop, rows // per_image, exist)[:, None]
        slots = tl.load(places + rows, mask=exist, other=0)
        windows, _ = row_offsets(slots, exist, C, BLOCK_C)
        inner = inner.to(grad_branch.dtype.element_ty)
        tl.store(grad_branch + windows, inner, mask=mask)
    store_shares(shares, for_weight, for_bias, C, BLOCK_C)


class TritonWindowNorm(WindowNorm):
    """:class:`WindowNorm` by kernels, in float32, float16 or bfloat16."""

    __slots__ = ()

    @without_kernels_if_none_compile
    def forward(self) -> tuple[Tensor | None, ...]:
        x, weight, bias, eps, grid, dtype, keeps = self
        (count, dims), tokens = x.shape, grid.tokens
        out = x.new_empty((*tokens.shape, dims), dtype=dtype)
        kept = statistics_of(count, out, keeps)
        block = block_of(dims)
        sizes = tokens.numel(), count
        triton_launch.launch(
            window_norm_kernel,
            (-(-tokens.numel() // block[1]), 1, 1),
            (x.contiguous(), weight.contiguous(), bias.contiguous(), tokens, out, kept),
            sizes,
            (eps, keeps, *block),
            WARPS,
        )
        return out, *(kept.unbind() if keeps else (None, None))

    @without_kernels_if_none_compile
    def backward(
        self,
        grad: Tensor,
        needed: tuple[bool, ...],
        mean: Tensor,
        rstd: Tensor,
        more: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        x, weight = self.x.contiguous(), self.weight.contiguous()
        grad, places = grad.contiguous(), self.grid.places
        added, grad_x = x if more is None else more.contiguous(), torch.empty_like(x)
        block, shares = block_of(x.shape[1]), shares_of(x)
        triton_launch.launch(
            window_norm_gradient_kernel,
            (len(shares), 1, 1),
            (x, weight, grad, places, added, mean, rstd, grad_x, shares),
            (len(x),),
            (more is not None, *block),
            WARPS,
        )
        return grad_x, *shares.sum(dim=0).to(weight.dtype).unbind()


class TritonResidualNorm(ResidualNorm):
    """:class:`ResidualNorm` by kernels, in float32, float16 or bfloat16."""

    __slots__ = ()

    @without_kernels_if_none_compile
    def forward(self) -> tuple[Tensor | None, ...]:
        x, branch, drop, weight, bias, eps, grid, dtype, keeps = self
        count, dims = len(grid.places), x.shape[2]
        total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype))
        out = x.new_empty((count, dims), dtype=dtype)
        kept = statistics_of(count, out, keeps)
        block = block_of(dims)
        triton_launch.launch(
            residual_norm_kernel,
            (-(-count // block[1]), 1, 1),
            (
                *(x.contiguous(), branch.contiguous(), x if drop is None else drop),
                *(weight.contiguous(), bias.contiguous(), grid.places),
                *(total, out, kept),
            ),
            (count, x.shape[1]),
            (eps, keeps, drop is not None, *block),
            WARPS,
        )
        return total, out, *(kept.unbind() if keeps else (None, None))

    @without_kernels_if_none_compile
    def backward(
        self,
        of_sum: Tensor,
        grad: Tensor,
        needed: tuple[bool, ...],
        mean: Tensor,
        rstd: Tensor,
    ) -> tuple[Tensor | None, ...]:
        x, _, drop, weight, _, _, grid, dtype, _ = self
        x, weight = x.contiguous(), weight.contiguous()
        grad_x, tokens = torch.empty_like(x), grid.tokens
        new = x.new_zeros if grid.padded else x.new_empty
        of_branch = new((*tokens.shape, x.shape[2]), dtype=dtype)
        block, shares = block_of(x.shape[2]), shares_of(grad)
        triton_launch.launch(
            residual_norm_gradient_kernel,
            (len(shares), 1, 1),
            (
                *(x, x if drop is None else drop, weight, of_sum.contiguous()),
                *(grad.contiguous(), grid.places, mean, rstd),
                *(grad_x, of_branch, shares),
            ),
            (len(grad), x.shape[1]),
            (drop is not None, *block),
            WARPS,
        )
        of_norm = shares.sum(dim=0).to(weight.dtype).unbind()
        return grad_x, of_branch, *of_norm


def statistics_of(count: int, like: Tensor, keeps: bool) -> Tensor:
    """Memory for two numbers of each token, (2, count, 1); if not, any."""
    return like.new_empty((2, count, 1), dtype=torch.float32) if keeps else like


def shares_of(tokens: Tensor) -> Tensor:
    """Memory for the gradients of parameters, (programs, 2, C), for tokens (T, C)."""
    count, dims = tokens.shape
    programs = max(1, min(PROGRAMS, -(-count // block_of(dims)[1])))
    return tokens.new_empty((programs, 2, dims), dtype=torch.float32)


@lru_cache(maxsize=64)
def block_of(dims: int) -> tuple[int, int, int]:
    """Channels, and the rows, and channels with padding, that a program holds."""
    channels = triton.next_power_of_2(dims)
    return dims, max(1, VALUES // channels), channels
