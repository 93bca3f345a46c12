"""Steps that an exporter has to write otherwise than PyTorch computes them best.

A graph that is written to a file may be run with other batches and sizes. In it a
height or width may be a symbol, at which no step here looks, and divisions are of
positive numbers, since ONNX rounds towards zero.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .rule import is_exported


def is_symbol(length: int | Tensor) -> bool:
    """Whether a length is unknown: a symbol of ``torch.export`` or ``torch.jit``."""
    return isinstance(length, (torch.SymInt, Tensor))


def rolled(x: Tensor, shift: int | Tensor) -> Tensor:
    """A grid (B, h, w, C) rolled down and to the right; a negative shift rolls back."""
    if not is_symbol(shift):
        return x.roll((shift, shift), (1, 2)) if shift else x
    for dim in (1, 2):  # ONNX has no roll, and torch's exporter wants a constant shift
        length = x.shape[dim]
        places = torch.arange(length, device=x.device)
        x = x.index_select(dim, (places + length - shift) % length)
    return x


def cropped(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns of a grid (B, h, w, C)."""
    if not isinstance(height, torch.SymInt):
        return x[:, :height, :width]
    for dim, length in ((1, height), (2, width)):  # a slice asks whether it is all of x
        x = x.index_select(dim, torch.arange(length, device=x.device))
    return x


def padded(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Zeros around ``x``, as for :func:`torch.nn.functional.pad`, if there are any."""
    return F.pad(x, sides) if is_exported() or any(sides) else x


def contiguous(x: Tensor, length: int) -> Tensor:
    """Contiguous memory; ``length`` is one of its sizes, which may be a symbol."""
    if isinstance(length, torch.SymInt):  # contiguous() asks whether it is 1
        return x.clone(memory_format=torch.contiguous_format)
    return x.contiguous()


def viewable(x: Tensor) -> Tensor:
    """``x``; in a graph a copy, since flattening needs one for some strides alone."""
    if is_exported():
        return x.clone(memory_format=torch.contiguous_format)
    return x


def recomputed(function: Callable[..., Tensor], x: Tensor, *others: object) -> Tensor:
    """``function(x, *others)``, computed again in the backward pass.

    As in the stock blocks, that is where ``x`` needs a gradient.
    """
    if not x.requires_grad or is_exported():
        return function(x, *others)
    return checkpoint(function, x, *others, use_reentrant=False)
