"""SpatialK's mixing, mean_h GELU(s_h * (T_h x) + b_h), in Triton for CUDA.

The form of ``token_mixing.py`` writes the charts of some windows to memory and reads
them again for every step. Here one program holds some channels of one window, and its
charts never leave the registers: all tokens of a small window at once, of a large one
some rows of T x after the others. Triton (https://triton-lang.org) compiles the kernels
on their first call, and must be importable to import this file.

Tokens and channels are padded to blocks of powers of two, of at least 16, as the matrix
units want them. What is loaded for the padding is zero, so it adds nothing to a product
or to a gradient's sum. Sums are made in float32 and in the same order on every run.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_launch
from .token_mixing import TokenMixing
from .triton_choice import without_kernels_if_none_compile

#: Rows of T x, and channels, that one program holds, by kernel: of windows of up to 64
#: tokens, and of larger ones. Of 12 that were tried for 49 and for 144 tokens, in
#: bfloat16 on an H200, they are the fastest, or within 5 % of it; float32 has half of
#: them, as registers run out.
BLOCKS = dict(
    forward_kernel=((64, 32), (16, 64)),
    input_gradient_kernel=((64, 32), (32, 64)),
    parameter_gradient_kernel=((64, 32), (64, 32)),
)

#: Programs that share the parameters' gradients: several for each multiprocessor of a
#: large GPU. One number for all, so that sums do not depend on the GPU's size.
PARAMETER_PROGRAMS = 1024


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def normal_tail(z):
    """The normal distribution above abs(z), and exp(-z^2 / 2).

    Equation 26.2.17 of Abramowitz and Stegun, Handbook of Mathematical Functions, 1964
    (https://personal.math.ubc.ca/~cbm/aands/page_932.htm), within 7.5e-8. It takes less
    time than an erf, and the gradient needs the exponential anyway.
    """
    bell = tl.exp(-0.5 * z * z)
    t = 1.0 / (1.0 + 0.2316419 * tl.abs(z))
    series = 1.330274429 * t - 1.821255978
    series = series * t + 1.781477937
    series = series * t - 0.356563782
    series = (series * t + 0.319381530) * t
    return 0.3989422804014327 * series * bell, bell  # 1 / sqrt(2 pi)


@triton.jit
def gate_of(z, tail):
    return tl.where(z < 0, tail, 1.0 - tail)


@triton.jit
def tanh_gate(z):
    """(1 + tanh(u)) / 2, and du/dz, of GELU's approximation by tanh."""
    square = z * z
    u = 0.7978845608028654 * (z + 0.044715 * z * square)  # sqrt(2 / pi)
    slope = 0.7978845608028654 * (1.0 + 0.134145 * square)
    return 1.0 / (1.0 + tl.exp(-2.0 * u)), slope


@triton.jit
def gelu(z, TANH: tl.constexpr):
    if TANH:
        gate, _ = tanh_gate(z)
    else:
        tail, _ = normal_tail(z)
        gate = gate_of(z, tail)
    return z * gate


@triton.jit
def gelu_slope(z, TANH: tl.constexpr):
    if TANH:
        gate, slope = tanh_gate(z)
        slope = gate + 2.0 * z * gate * (1.0 - gate) * slope
    else:
        tail, bell = normal_tail(z)
        slope = gate_of(z, tail) + 0.3989422804014327 * z * bell
    return slope


@triton.jit
def load_mixing(weight, chart, rows, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Some rows of one chart's T, (rows, BLOCK_N)."""
    tokens = tl.arange(0, BLOCK_N)
    inside = (rows < N)[:, None] & (tokens < N)[None, :]
    offsets = chart * N * N + rows[:, None] * N + tokens[None, :]
    return tl.load(weight + offsets, mask=inside, other=0.0)


@triton.jit
def locate(window, rows, channels, C, N: tl.constexpr):
    """Where some tokens and channels of a window stand, and which of them exist."""
    offsets = window * N * C + rows[:, None] * C + channels[None, :]
    return offsets, (rows < N)[:, None] & (channels < C)[None, :]


@triton.jit
def load_row(row, length, offsets):
    """Some entries of a row in float32, zeros after its end."""
    return tl.load(row + offsets, mask=offsets < length, other=0.0).to(tl.float32)


@triton.jit
def forward_kernel(
    x,
    weight,
    bias,
    scale,
    out,
    C: tl.constexpr,
    N: tl.constexpr,
    H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TANH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: windows, blocks of channels."""
    window = tl.program_id(0).to(tl.int64)  # offsets may exceed 32 bits
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    every, exists = locate(window, tl.arange(0, BLOCK_N), channels, C, N)
    tile = tl.load(x + every, mask=exists, other=0.0)
    for first in range(0, N, BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        total = tl.full((BLOCK_M, BLOCK_C), 0.0, tl.float32)
        for chart in range(H):
            mixing = load_mixing(weight, chart, rows, N, BLOCK_N)
            shift = load_row(bias + chart * N, N, rows)
            factor = load_row(scale + chart * C, C, channels)
            mixed = tl.dot(mixing, tile, input_precision=PRECISION)
            total += gelu(mixed * factor[None, :] + shift[:, None], TANH)
        some, inside = locate(window, rows, channels, C, N)
        tl.store(out + some, (total / H).to(out.dtype.element_ty), mask=inside)


@triton.jit
def input_gradient_kernel(
    x,
    weight,
    bias,
    scale,
    grad,
    grad_x,
    C: tl.constexpr,
    N: tl.constexpr,
    H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TANH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: windows, blocks of channels."""
    window = tl.program_id(0).to(tl.int64)  # offsets may exceed 32 bits
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    every, exists = locate(window, tl.arange(0, BLOCK_N), channels, C, N)
    tile = tl.load(x + every, mask=exists, other=0.0)
    total = tl.full((BLOCK_N, BLOCK_C), 0.0, tl.float32)
    for first in range(0, N, BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        some, inside = locate(window, rows, channels, C, N)
        outer = tl.load(grad + some, mask=inside, other=0.0).to(tl.float32) / H
        for chart in range(H):
            mixing = load_mixing(weight, chart, rows, N, BLOCK_N)
            shift = load_row(bias + chart * N, N, rows)
            factor = load_row(scale + chart * C, C, channels)
            mixed = tl.dot(mixing, tile, input_precision=PRECISION)
            slope = gelu_slope(mixed * factor[None, :] + shift[:, None], TANH)
            inner = (outer * slope * factor[None, :]).to(tile.dtype)
            total += tl.dot(tl.trans(mixing), inner, input_precision=PRECISION)
    tl.store(grad_x + every, total.to(grad_x.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=['B'])
def parameter_gradient_kernel(
    x,
    weight,
    bias,
    scale,
    grad,
    grad_weight,
    grad_bias,
    grad_scale,
    B,
    C: tl.constexpr,
    N: tl.constexpr,
    H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TANH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: charts and blocks of rows, blocks of channels, splits of the windows.

    A program adds up every splits-th window and stores its share:
    grad_weight (splits, blocks, H, N, N), grad_bias (splits, blocks, H, N) and
    grad_scale (splits, blocks of rows, H, C), all in float32.
    """
    chart, split = tl.program_id(0) % H, tl.program_id(2)
    row_block, block = tl.program_id(0) // H, tl.program_id(1)
    tokens = tl.arange(0, BLOCK_N)
    rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = block * BLOCK_C + tl.arange(0, BLOCK_C)
    mixing = load_mixing(weight, chart, rows, N, BLOCK_N)
    shift = load_row(bias + chart * N, N, rows)
    factor = load_row(scale + chart * C, C, channels)
    for_weight = tl.full((BLOCK_M, BLOCK_N), 0.0, tl.float32)
    for_bias = tl.full((BLOCK_M, BLOCK_C), 0.0, tl.float32)
    for_scale = tl.full((BLOCK_M, BLOCK_C), 0.0, tl.float32)
    for window in range(split.to(tl.int64), B, tl.num_programs(2)):
        every, exists = locate(window, tokens, channels, C, N)
        tile = tl.load(x + every, mask=exists, other=0.0)
        some, inside = locate(window, rows, channels, C, N)
        outer = tl.load(grad + some, mask=inside, other=0.0).to(tl.float32) / H
        mixed = tl.dot(mixing, tile, input_precision=PRECISION)
        inner = outer * gelu_slope(mixed * factor[None, :] + shift[:, None], TANH)
        for_bias += inner
        for_scale += inner * mixed
        inner = (inner * factor[None, :]).to(tile.dtype)
        for_weight += tl.dot(inner, tl.trans(tile), input_precision=PRECISION)
    part = (split * tl.num_programs(1) + block) * H + chart
    offsets = rows[:, None] * N + tokens[None, :]
    square = (rows < N)[:, None] & (tokens < N)[None, :]
    tl.store(grad_weight + part * N * N + offsets, for_weight, mask=square)
    total = tl.reduce(for_bias, 1, add)
    tl.store(grad_bias + part * N + rows, total, mask=rows < N)
    total = tl.reduce(for_scale, 0, add)
    part = (split * (tl.num_programs(0) // H) + row_block) * H + chart
    tl.store(grad_scale + part * C + channels, total, mask=channels < C)


class TritonMixing(TokenMixing):
    """:class:`TokenMixing` by kernels; ``x`` in float32, float16 or bfloat16.

    Gradients of parameters are in float32.
    """

    __slots__ = ()

    @without_kernels_if_none_compile
    def forward(self) -> Tensor:
        out = torch.empty_like(self.x, memory_format=torch.contiguous_format)
        grid = len(self.x), blocks_of(forward_kernel, self.x).of_channels(self.x), 1
        launch_mixing(forward_kernel, grid, (*self.cast()[:4], out), self.approximate)
        return out

    @without_kernels_if_none_compile
    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, approximate = self.cast()
        tensors, charts = (x, weight, bias, scale, grad), len(scale)
        grads = [None] * 4
        if needed[0]:
            grads[0] = torch.empty_like(x, memory_format=torch.contiguous_format)
            grid = len(x), blocks_of(input_gradient_kernel, x).of_channels(x), 1
            of_x = *tensors, grads[0]
            launch_mixing(input_gradient_kernel, grid, of_x, approximate)
        if any(needed[1:4]):
            cut = blocks_of(parameter_gradient_kernel, x)
            row_blocks, blocks = cut.of_rows(x), cut.of_channels(x)
            programs = charts * row_blocks * blocks
            splits = max(1, min(len(x), PARAMETER_PROGRAMS // programs))
            shares = [
                x.new_empty(splits, blocks, *weight.shape, dtype=torch.float32),
                x.new_empty(splits, blocks, *bias.shape, dtype=torch.float32),
                x.new_empty(splits, row_blocks, *scale.shape, dtype=torch.float32),
            ]
            launch_mixing(
                parameter_gradient_kernel,
                (charts * row_blocks, blocks, splits),
                (*tensors, *shares),
                approximate,
                len(x),
            )
            grads[1:] = (share.sum(dim=(0, 1)) for share in shares)
        return tuple(grads)


class Blocks(NamedTuple):
    """What one program of a kernel holds.

    Args:
        rows (int): Rows of T x that are computed at once.
        tokens (int): Tokens of a window with their padding.
        channels (int): Channels.
    """

    rows: int
    tokens: int
    channels: int

    def of_rows(self, x: Tensor) -> int:
        """Blocks that the rows of windows (B, N, C) are cut into."""
        return -(-x.shape[1] // self.rows)

    def of_channels(self, x: Tensor) -> int:
        """Blocks that their channels are cut into."""
        return -(-x.shape[2] // self.channels)


def blocks_of(kernel: triton.runtime.KernelInterface, x: Tensor) -> Blocks:
    """The blocks of a kernel for windows (B, N, C)."""
    return blocks_for(kernel.__name__, x.shape[1], x.dtype == torch.float32)


@lru_cache(maxsize=64)
def blocks_for(kernel: str, tokens: int, is_float32: bool) -> Blocks:
    """As :func:`blocks_of`, for so many tokens of a window."""
    tokens = max(16, triton.next_power_of_2(tokens))
    rows, channels = BLOCKS[kernel][tokens > 64]
    if is_float32:
        channels //= 2
        rows = max(16, rows // 2) if tokens > 64 else rows
    return Blocks(min(rows, tokens), tokens, channels)


def launch_mixing(
    kernel: triton.runtime.KernelInterface,
    grid: tuple[int, int, int],
    tensors: tuple[Tensor, ...],
    approximate: str,
    *sizes: int,
) -> None:
    """Run a kernel on x, weight, bias, scale and what else it takes.

    Outputs among the tensors are contiguous; the others need not be.
    """
    x, scale = tensors[0], tensors[3]
    blocks = blocks_of(kernel, x)
    precision = float32_precision() if x.dtype == torch.float32 else 'ieee'
    constants = x.shape[2], x.shape[1], len(scale), *blocks
    triton_launch.launch(
        *(kernel, grid, tuple([each.contiguous() for each in tensors]), sizes),
        (*constants, approximate == 'tanh', precision),
        num_warps=2 * x.element_size(),  # float32 needs twice the registers
    )


def float32_precision() -> str:
    """'tf32' where torch's own products in float32 may use it, else 'ieee'."""
    settings = torch.backends.cuda.matmul
    # torch 2.9 put a word in place of the flag, and refuses a mix of both
    try:
        return 'tf32' if settings.fp32_precision == 'tf32' else 'ieee'
    except (AttributeError, AssertionError):  # what older ones raise
        return 'tf32' if settings.allow_tf32 else 'ieee'
