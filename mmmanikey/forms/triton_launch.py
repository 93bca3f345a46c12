"""Launching Triton's kernels without asking Triton each time which of them it is.

``kernel[grid](...)`` looks at every argument to find the compiled kernel, which takes
as long as the launch itself. What it found serves the next call with arguments of the
same dtypes, alignment and constants, as in Triton's tutorials
(https://triton-lang.org/main/getting-started/tutorials/02-fused-softmax.html).
"""

from functools import lru_cache

import torch
import triton
from torch import Tensor

#: Compiled kernels, by all that Triton compiles them for.
LAUNCHED: dict[tuple, triton.compiler.CompiledKernel] = {}


@lru_cache(maxsize=1)
def takes_constants() -> bool:
    """Whether compiled kernels are called with all arguments: since Triton 3.3."""
    major, minor, *_ = triton.__version__.split('.')
    return (int(major), int(minor)) >= (3, 3)


def launch(
    kernel: triton.runtime.KernelInterface,
    grid: tuple[int, int, int],
    tensors: tuple[Tensor, ...],
    sizes: tuple[int, ...],
    constants: tuple[object, ...],
    num_warps: int,
) -> None:
    """Run a kernel whose parameters are tensors, sizes and constants, in this order.

    Args:
        kernel (KernelInterface): Compiled by Triton on its first call.
        grid (tuple[int, int, int]): Programs.
        tensors (tuple[Tensor, ...]): All on one device, and contiguous.
        sizes (tuple[int, ...]): Numbers for which it is not compiled anew.
        constants (tuple): Of the kernel as it is compiled.
        num_warps (int): Of each program.
    """
    device = tensors[0].get_device()
    if device >= 0 and device != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(kernel, grid, tensors, sizes, constants, num_warps)
    aligned = [(x.dtype, x.data_ptr() % 16) for x in tensors]
    large = [size > 2**31 - 1 for size in sizes]
    key = id(kernel), device, num_warps, constants, *aligned, *large
    compiled = LAUNCHED.get(key)
    if compiled is not None:
        compiled[grid](*tensors, *sizes, *constants)
        return None
    compiled = kernel[grid](*tensors, *sizes, *constants, num_warps=num_warps)
    if compiled is not None and takes_constants():  # none is where it is interpreted
        LAUNCHED[key] = compiled
    return None
