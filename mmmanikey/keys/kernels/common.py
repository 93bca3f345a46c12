"""What the fast forms share: where they apply, autocast, and the size of a piece."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

#: Bytes of one chart activation buffer: some of them fit a core's share of the cache on
#: a CPU; on a GPU they must only be small beside the activations of the network.
BUFFER_BYTES = {'cpu': 2**22, 'cuda': 2**27}

#: With fewer tokens a piece, products with weights, and adding up the gradients of
#: these, cost too much.
FEWEST_TOKENS = 2048


if hasattr(torch.compiler, 'is_compiling'):  # since torch 2.3
    is_compiling = torch.compiler.is_compiling
else:
    is_compiling = torch._utils.is_compiling


def is_traced() -> bool:
    """Whether somebody writes down the operators that run, instead of running them.

    A compiler, an exporter, or a mode in which tensors are fake: they get the plain
    operators, nothing computed for one size beforehand, and nothing of theirs is kept.
    """
    return is_compiling() or is_exported() or has_fake_tensors()


def is_exported() -> bool:
    """Whether a graph is written that may be run with other batches and sizes.

    That is ``torch.export``, which old versions of torch do not announce, and
    ``torch.jit.trace``, on which the older ONNX exporter and OpenVINO build.
    """
    exporting = getattr(torch.compiler, 'is_exporting', bool)
    return exporting() or torch.jit.is_tracing()


def has_fake_tensors() -> bool:
    """Whether new tensors are fake or proxies, as those of ``make_fx`` are."""
    keys = torch._C._TorchDispatchModeKey
    return any(map(torch._C._get_dispatch_mode, (keys.FAKE, keys.PROXY)))


@contextmanager
def real_tensors() -> Iterator[None]:
    """New tensors are on the CPU and hold numbers, whatever the default device is."""
    with _disable_current_modes(), torch.device('cpu'):
        yield


def is_symbol(length: int | Tensor) -> bool:
    """Whether a length is unknown: a symbol of ``torch.export`` or ``torch.jit``."""
    return isinstance(length, (torch.SymInt, Tensor))


def applies(act: nn.Module, x: Tensor) -> bool:
    """Whether the fast forms serve this activation and the device of ``x``.

    They know the derivative of GELU.
    """
    fits = is_untouched(act, nn.GELU) and x.device.type in BUFFER_BYTES
    return fits and not is_traced()


def is_untouched(layer: nn.Module, *classes: type) -> bool:
    """Whether a layer is of one of these very classes and has no hooks.

    Only then may another form stand in for its call: adapters (LoRA) and quantisation
    put another layer in its place, and a hook may change its weights or its output.
    """
    ways = 'forward', 'forward_pre', 'backward', 'backward_pre'
    hooked = any(getattr(layer, f'_{way}_hooks') for way in ways)
    return type(layer) in classes and not hooked


def autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast casts to on a device ('cpu' or 'cuda'); None where it is off."""
    if hasattr(torch, 'get_autocast_dtype'):  # since torch 2.4, for any device
        enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
        return dtype(device) if enabled(device) else None
    if device == 'cpu':
        enabled, dtype = torch.is_autocast_cpu_enabled, torch.get_autocast_cpu_dtype
    else:
        enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_gpu_dtype
    return dtype() if enabled() else None


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast to the dtype of autocast where it is on, as it would do for a product."""
    device = tensors[0].device.type
    # other devices, such as meta, may not know autocast
    dtype = autocast_dtype(device) if device in BUFFER_BYTES else None
    if dtype is None:
        return tensors
    return tuple(tensor if tensor is None else tensor.to(dtype) for tensor in tensors)


def pieces(
    start: int, end: int, bytes_each: int, device: torch.device, fewest: int = 1
) -> list[slice]:
    """Cut ``start`` to ``end`` evenly so that a piece fits a buffer.

    Args:
        start (int): First item.
        end (int): Behind the last item.
        bytes_each (int): Of an item.
        device (torch.device): Its buffer counts.
        fewest (int): A piece is no smaller, even if it does not fit. Defaults to 1.

    Returns:
        list[slice]: The first one is the longest.
    """
    most = max(fewest, BUFFER_BYTES[device.type] // bytes_each)
    length = -(-(end - start) // max(1, -(-(end - start) // most)))
    return [
        slice(first, min(first + length, end))
        for first in range(start, end, length or 1)
    ]


def token_pieces(tokens: Tensor, hidden_dims: int) -> list[slice]:
    """Pieces of tokens (M, C) whose hidden layer fits a buffer, or the fewest."""
    bytes_each = hidden_dims * tokens.element_size()
    return pieces(0, len(tokens), bytes_each, tokens.device, FEWEST_TOKENS)
