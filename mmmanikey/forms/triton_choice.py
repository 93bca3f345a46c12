"""Whether Triton kernels serve a call."""

import warnings
from collections.abc import Callable
from functools import lru_cache, wraps
from subprocess import CalledProcessError

import torch
from torch import Tensor

from .pieces import product_dtype

#: Tokens of the largest window that the Triton kernels take, 12 x 12.
MAX_TOKENS = 144
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Why Triton is not used any more, if so.
given_up: list[Exception] = []


def why_not(num_tokens: int, x: Tensor, *parameters: Tensor) -> str | None:
    """Why SpatialK's kernels do not serve these tensors, or None if they do.

    They serve windows of up to ``MAX_TOKENS`` tokens in float32, float16 or
    bfloat16, the parameters in the same dtype, on an NVIDIA GPU of compute capability
    8.0 (Ampere) or later where Triton 3 is installed.

    Args:
        num_tokens (int): Tokens of a window.
        x (Tensor): Tokens, before autocast casts them.
        *parameters (Tensor): The key's parameters, likewise.
    """
    if x.device.type != 'cuda':
        return f'the device is {x.device.type}'
    if num_tokens > MAX_TOKENS:
        return f'a window has {num_tokens} tokens, more than {MAX_TOKENS}'
    dtype = product_dtype(x)
    if dtype not in DTYPES:
        return f'the dtype is {dtype}'
    if any((product_dtype(p), p.device) != (dtype, x.device) for p in parameters):
        return 'parameters are of another dtype or device'
    if given_up:
        return 'its kernels cannot be compiled here'
    if not serves(x.device):
        return 'Triton 3 is not installed, or does not serve this GPU'
    return None


def runs(*tensors: Tensor) -> bool:
    """Whether kernels serve tensors of these dtypes, on this device."""
    return (
        tensors[0].is_cuda
        and not given_up
        and all(each.dtype in DTYPES for each in tensors)
        and serves(tensors[0].device)
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
            f"Triton's kernels cannot be compiled ({error}), so slower forms run: "
            "install a C compiler and Python's headers",
            stacklevel=2,
        )


def without_kernels_if_none_compile(method: Callable) -> Callable:
    """Decorator of a method that kernels compute, and the class's base without them.

    Any of them may be the first that is to be compiled.
    """

    @wraps(method)
    def call(self: tuple, *args: object) -> object:
        if not given_up:
            try:
                return method(self, *args)
            except Exception as error:
                give_up_triton(error)
        return getattr(type(self).__base__, method.__name__)(self, *args)

    return call
