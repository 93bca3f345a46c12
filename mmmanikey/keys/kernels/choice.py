"""Which fast form of SpatialK's mixing runs: Triton's kernels or pieces of windows."""

import warnings
from functools import lru_cache
from subprocess import CalledProcessError

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .common import autocast
from .token_mixing import token_mixing

#: Tokens of the largest window whose mixing one program of the Triton kernels holds.
MAX_TOKENS = 64
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Why Triton is not used any more, if so.
given_up: list[Exception] = []


def mix_windows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    approximate: str,
    triton: bool,
) -> Tensor:
    """Mean of the charts of whole windows, by :func:`token_mixing` or Triton's kernels.

    Args:
        x (Tensor): Windows, (B, N, C), any floating dtype.
        weight (Tensor): T, (H * N, N) or (H * N, N, 1).
        bias (Tensor): b, (H * N).
        scale (Tensor): s, (H, C).
        approximate (str): As in :class:`torch.nn.GELU`.
        triton (bool): Whether Triton's kernels may be used.

    Returns:
        Tensor: (B, N, C).
    """
    x, weight, bias, scale = autocast(x, weight, bias, scale)
    if triton and triton_applies(x, weight, bias, scale):
        # here, as Triton need not be installed
        from .triton_mixing import triton_token_mixing

        try:
            return triton_token_mixing(x, weight, bias, scale, approximate)
        except Exception as error:
            give_up_triton(error)
    return token_mixing(x, weight, bias, scale, approximate)


def triton_applies(x: Tensor, *parameters: Tensor) -> bool:
    """Whether Triton's kernels serve these tensors.

    They serve windows of up to ``MAX_TOKENS`` tokens in float32, float16 or
    bfloat16, the parameters in the same dtype, on an NVIDIA GPU of compute capability
    8.0 (Ampere) or later where Triton 3 is installed. What looks at torch's operators,
    as its FLOP counter does, sees the other form, which is made of them.
    """
    return (
        x.device.type == 'cuda'
        and x.shape[1] <= MAX_TOKENS
        and x.dtype in DTYPES
        and all((p.dtype, p.device) == (x.dtype, x.device) for p in parameters)
        and _get_current_dispatch_mode() is None
        and not given_up
        and serves(x.device)
    )


@lru_cache(maxsize=16)
def serves(device: torch.device) -> bool:
    """Whether Triton compiles for this GPU; its project supports none before Ampere."""
    return (
        torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and has_triton()
    )


def has_triton() -> bool:
    """Whether Triton is installed, of version 3, whose products name a precision."""
    try:
        import triton
    except ImportError:  # torch for CPUs and for macOS comes without
        return False
    return int(triton.__version__.split('.')[0]) >= 3


def give_up_triton(error: Exception) -> None:
    """Use Triton no more, and warn, if it failed for want of a C compiler.

    It compiles a launcher for each kind of call with the machine's C compiler and
    Python's headers, when there is none in its cache:
    https://github.com/triton-lang/triton/blob/main/python/triton/runtime/build.py.

    Args:
        error (Exception): From a launch; raised again if it is another one.
    """
    failed = isinstance(error, (OSError, CalledProcessError))
    if not (failed or 'C compiler' in str(error)):
        raise error
    if not given_up:
        given_up.append(error)
        warnings.warn(
            f"SpatialK's Triton kernels cannot be compiled ({error}), so the form "
            "without them runs: install a C compiler and Python's headers, or silence "
            "this with key=dict(type='SpatialK', triton=False)",
            stacklevel=2,
        )
