"""What several forms share: the size of a piece of work, and autocast."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from .rule import is_batched, is_compiling

#: Bytes of one chart activation buffer: some of them fit a core's share of the cache on
#: a CPU; on a GPU they must only be small beside the activations of the network.
BUFFER_BYTES = {'cpu': 2**22, 'cuda': 2**28}

#: With fewer tokens a piece, products with weights, and adding up the gradients of
#: these, cost too much.
FEWEST_TOKENS = 2048


def autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast casts to on a device ('cpu' or 'cuda'); None where it is off."""
    if hasattr(torch, 'get_autocast_dtype'):  # since torch 2.4, for any device
        on = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if on else None
    if device == 'cpu':
        enabled, dtype = torch.is_autocast_cpu_enabled, torch.get_autocast_cpu_dtype
    else:
        enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_gpu_dtype
    return dtype() if enabled() else None


def product_dtype(x: Tensor) -> torch.dtype:
    """Dtype of ``x`` in a product: autocast's where it is on, unless it is float64."""
    device, dtype = x.device.type, x.dtype
    if device not in BUFFER_BYTES or dtype == torch.float64:
        return dtype  # others, such as meta, may not know autocast
    return autocast_dtype(device) or dtype


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast to the dtype of autocast where it is on, as it would do for a product.

    PyTorch casts one by one, and half of what it launches in Swin-T are such casts.
    """
    device = next((x.device.type for x in tensors if x is not None), None)
    dtype = autocast_dtype(device) if device in BUFFER_BYTES else None
    if dtype is None:
        return tensors
    right = dtype, torch.float64
    wrong = [x for x in tensors if x is not None and x.dtype not in right]
    if not wrong:
        return tensors
    cast = iter(cast_together(dtype, *wrong))
    return tuple(x if x is None or x.dtype in right else next(cast) for x in tensors)


def cast_together(dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in another dtype; those of one device and dtype in one launch."""
    if len({(x.device, x.dtype) for x in tensors}) > 1 or len(tensors) == 1:
        return tuple(x.to(dtype) for x in tensors)
    if torch.is_grad_enabled():
        return CastTogether.apply(dtype, *tensors)
    return copies(dtype, tensors)


def copies(dtype: torch.dtype, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """As :func:`cast_together`, without a derivative."""
    cast = tuple(torch.empty_like(x, dtype=dtype) for x in tensors)
    torch._foreach_copy_(cast, tensors)
    return cast


class CastTogether(Function):
    """See :func:`cast_together`; the gradients are cast back together as well."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, dtype: torch.dtype, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        cast = copies(dtype, tensors)
        needed = ctx.needs_input_grad[1:]
        frozen = [x for x, need in zip(cast, needed) if not need]
        ctx.mark_non_differentiable(*frozen)
        return cast

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [grad for grad in grads if grad is not None]
        if given and is_batched(given[0]):
            cast = (grad.to(ctx.dtype) for grad in given)
        else:
            cast = iter(cast_together(ctx.dtype, *given) if given else ())
        return None, *(None if grad is None else next(cast) for grad in grads)


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


def sum_dtype(x: Tensor) -> torch.dtype:
    """Dtype of sums over many pieces: no less than single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def why_not_here(x: Tensor, *weights: Tensor) -> str | None:
    """Why pieces do not serve these tensors, or None if they do."""
    if x.device.type not in BUFFER_BYTES:
        return f'the device is {x.device.type}'
    for weight in weights:
        if weight.dtype != x.dtype and product_dtype(weight) != product_dtype(x):
            return f'the dtypes are {product_dtype(x)} and {product_dtype(weight)}'
    return why_not_half(x)


def why_not_half(x: Tensor) -> str | None:
    """Why only plain code serves half precision on a CPU, or None for other tensors.

    Other operators, or sums over pieces, round at other places than the plain code.
    Compilers choose operators of their own.
    """
    if x.device.type != 'cpu' or is_compiling():
        return None
    dtype = product_dtype(x)
    is_full = dtype in (torch.float32, torch.float64)
    return None if is_full else f'{dtype} on a CPU'
