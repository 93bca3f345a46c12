"""SpatialK's mixing, mean_h GELU(s_h * (T_h x) + b_h), in Triton for CUDA.

The form of ``token_mixing.py`` writes the charts of some windows to memory and reads
them again for every step. Here one program holds some channels of one window, and its
charts never leave the registers. Triton (https://triton-lang.org) compiles the kernels
on their first call, and must be importable to import this file.

Tokens and channels are padded to blocks of powers of two, of at least 16, as the matrix
units want them. What is loaded for the padding is zero, so it adds nothing to a product
or to a gradient's sum. Sums are made in float32 and in the same order on every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .token_mixing import TokenMixing
from .triton_choice import give_up_triton

#: Bytes of a window's row that one program holds. With more of them the compiler runs
#: out of registers, soonest in float32.
BLOCK_BYTES = 64

#: Programs that share the parameters' gradients: several for each multiprocessor of a
#: large GPU. One number for all, so that sums do not depend on the GPU's size.
PARAMETER_PROGRAMS = 1024


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def normal_cdf(z):
    return 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)  # sqrt(1 / 2)


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
        gate = normal_cdf(z)
    return z * gate


@triton.jit
def gelu_slope(z, TANH: tl.constexpr):
    if TANH:
        gate, slope = tanh_gate(z)
        slope = gate + 2.0 * z * gate * (1.0 - gate) * slope
    else:
        density = 0.3989422804014327 * tl.exp(-0.5 * z * z)  # sqrt(1 / (2 pi))
        slope = normal_cdf(z) + z * density
    return slope


@triton.jit
def load_mixing(weight, chart, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """T of one chart, (BLOCK_N, BLOCK_N)."""
    tokens = tl.arange(0, BLOCK_N)
    inside = (tokens < N)[:, None] & (tokens < N)[None, :]
    offsets = chart * N * N + tokens[:, None] * N + tokens[None, :]
    return tl.load(weight + offsets, mask=inside, other=0.0)


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
    C,
    N: tl.constexpr,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TANH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: windows, blocks of channels."""
    tokens = tl.arange(0, BLOCK_N)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (tokens < N)[:, None] & (channels < C)[None, :]
    offsets = tl.program_id(0).to(tl.int64) * N * C  # may exceed 32 bits
    offsets += tokens[:, None] * C + channels[None, :]
    tile = tl.load(x + offsets, mask=inside, other=0.0)
    total = tl.full((BLOCK_N, BLOCK_C), 0.0, tl.float32)
    for chart in range(H):
        mixing = load_mixing(weight, chart, N, BLOCK_N)
        shift = load_row(bias + chart * N, N, tokens)
        factor = load_row(scale + chart * C, C, channels)
        mixed = tl.dot(mixing, tile, input_precision=PRECISION)
        total += gelu(mixed * factor[None, :] + shift[:, None], TANH)
    tl.store(out + offsets, (total / H).to(out.dtype.element_ty), mask=inside)


@triton.jit
def input_gradient_kernel(
    x,
    weight,
    bias,
    scale,
    grad,
    grad_x,
    C,
    N: tl.constexpr,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TANH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: windows, blocks of channels."""
    tokens = tl.arange(0, BLOCK_N)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (tokens < N)[:, None] & (channels < C)[None, :]
    offsets = tl.program_id(0).to(tl.int64) * N * C
    offsets += tokens[:, None] * C + channels[None, :]
    tile = tl.load(x + offsets, mask=inside, other=0.0)
    outer = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32) / H
    total = tl.full((BLOCK_N, BLOCK_C), 0.0, tl.float32)
    for chart in range(H):
        mixing = load_mixing(weight, chart, N, BLOCK_N)
        shift = load_row(bias + chart * N, N, tokens)
        factor = load_row(scale + chart * C, C, channels)
        mixed = tl.dot(mixing, tile, input_precision=PRECISION)
        slope = gelu_slope(mixed * factor[None, :] + shift[:, None], TANH)
        inner = (outer * slope * factor[None, :]).to(tile.dtype)
        total += tl.dot(tl.trans(mixing), inner, input_precision=PRECISION)
    tl.store(grad_x + offsets, total.to(grad_x.dtype.element_ty), mask=inside)


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
    C,
    N: tl.constexpr,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TANH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: charts, blocks of channels, splits of the windows.

    A program adds up every splits-th window and stores its share:
    grad_weight (splits, blocks, H, N, N), grad_bias (splits, blocks, H, N) and
    grad_scale (splits, H, C), all in float32.
    """
    chart, block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tokens = tl.arange(0, BLOCK_N)
    channels = block * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (tokens < N)[:, None] & (channels < C)[None, :]
    mixing = load_mixing(weight, chart, N, BLOCK_N)
    shift = load_row(bias + chart * N, N, tokens)
    factor = load_row(scale + chart * C, C, channels)
    for_weight = tl.full((BLOCK_N, BLOCK_N), 0.0, tl.float32)
    for_bias = tl.full((BLOCK_N, BLOCK_C), 0.0, tl.float32)
    for_scale = tl.full((BLOCK_N, BLOCK_C), 0.0, tl.float32)
    for window in range(split.to(tl.int64), B, tl.num_programs(2)):
        offsets = window * N * C + tokens[:, None] * C + channels[None, :]
        tile = tl.load(x + offsets, mask=inside, other=0.0)
        outer = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32) / H
        mixed = tl.dot(mixing, tile, input_precision=PRECISION)
        inner = outer * gelu_slope(mixed * factor[None, :] + shift[:, None], TANH)
        for_bias += inner
        for_scale += inner * mixed
        inner = (inner * factor[None, :]).to(tile.dtype)
        for_weight += tl.dot(inner, tl.trans(tile), input_precision=PRECISION)
    part = (split * tl.num_programs(1) + block) * H + chart
    offsets = tokens[:, None] * N + tokens[None, :]
    square = (tokens < N)[:, None] & (tokens < N)[None, :]
    tl.store(grad_weight + part * N * N + offsets, for_weight, mask=square)
    total = tl.reduce(for_bias, 1, add)
    tl.store(grad_bias + part * N + tokens, total, mask=tokens < N)
    total = tl.reduce(for_scale, 0, add)
    rows = grad_scale + (split * H + chart) * C
    tl.store(rows + channels, total, mask=channels < C)


class TritonMixing(TokenMixing):
    """:class:`TokenMixing` by kernels; ``x`` in float32, float16 or bfloat16.

    All tensors have the dtype of ``x``.
    """

    __slots__ = ()

    def forward(self) -> Tensor:
        out = torch.empty_like(self.x, memory_format=torch.contiguous_format)
        grid = len(self.x), num_blocks(self.x)
        launch(forward_kernel, grid, (*self[:4], out), self.approximate)
        return out

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        try:
            return self.kernel_gradients(grad, needed)
        except Exception as error:
            # only these kernels are still to be compiled, or again
            give_up_triton(error)
            return super().backward(grad, needed)

    def kernel_gradients(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """As :meth:`backward`, by kernels alone."""
        x, weight, bias, scale, approximate = self
        tensors, blocks, charts = (*self[:4], grad), num_blocks(x), len(scale)
        grads = [None] * 4
        if needed[0]:
            grads[0] = torch.empty_like(x, memory_format=torch.contiguous_format)
            grid = (len(x), blocks)
            launch(input_gradient_kernel, grid, (*tensors, grads[0]), approximate)
        if any(needed[1:4]):
            splits = max(1, min(len(x), PARAMETER_PROGRAMS // (charts * blocks)))
            shares = [
                x.new_empty(splits, blocks, *weight.shape, dtype=torch.float32),
                x.new_empty(splits, blocks, *bias.shape, dtype=torch.float32),
                x.new_empty(splits, 1, *scale.shape, dtype=torch.float32),
            ]
            launch(
                parameter_gradient_kernel,
                (charts, blocks, splits),
                (*tensors, *shares),
                approximate,
                B=len(x),
            )
            grads[1:] = (share.sum(dim=(0, 1)) for share in shares)
        return tuple(grads)


def block_channels(x: Tensor) -> int:
    """Channels of one program."""
    return BLOCK_BYTES // x.element_size()


def num_blocks(x: Tensor) -> int:
    """Blocks that the channels of ``x`` are cut into."""
    return triton.cdiv(x.shape[2], block_channels(x))


def launch(
    kernel: triton.runtime.KernelInterface,
    grid: tuple[int, ...],
    tensors: tuple[Tensor, ...],
    approximate: str,
    **sizes: int,
) -> None:
    """Run a kernel on x, weight, bias, scale and what else it takes.

    Outputs among the tensors are contiguous; the others need not be.
    """
    x, scale = tensors[0], tensors[3]
    with torch.cuda.device_of(x):
        kernel[grid](
            *(tensor.contiguous() for tensor in tensors),
            C=x.shape[2],
            N=x.shape[1],
            H=len(scale),
            BLOCK_N=max(16, triton.next_power_of_2(x.shape[1])),
            BLOCK_C=block_channels(x),
            TANH=approximate == 'tanh',
            PRECISION=float32_precision(),
            num_warps=2 * x.element_size(),  # float32 needs twice the registers
            **sizes,
        )


def float32_precision() -> str:
    """'tf32' where torch's own products in float32 may use it, else 'ieee'."""
    settings = torch.backends.cuda.matmul
    # torch 2.9 put a word in place of the flag, and refuses a mix of both
    try:
        return 'tf32' if settings.fp32_precision == 'tf32' else 'ieee'
    except (AttributeError, AssertionError):  # what older ones raise
        return 'tf32' if settings.allow_tf32 else 'ieee'
