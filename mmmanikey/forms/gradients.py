"""Computations whose gradient is written by hand, for PyTorch's autograd.

A computation is a NamedTuple of its arguments, tensors and settings. It has three
methods: ``forward()`` is the result, ``backward(grad, needed)`` the gradients of the
first arguments, in their order, and ``plain()`` the result by operators that PyTorch
can differentiate. ``needed`` says of each argument whether its gradient is asked for.
Where ``forward()`` gives a tuple, its first item is the result, and ``backward`` gets
the others after ``needed``.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from .rule import is_batched

#: The gradient of GELU, written into memory that is given.
gelu_gradient_to = torch.ops.aten.gelu_backward.grad_input
#: Autocast off on all devices, in a tenth of the time of ``torch.autocast``.
without_autocast = torch._C._DisableAutocast


def compute(computation: NamedTuple) -> Tensor:
    """The result of a computation, which keeps its arguments for the backward pass.

    Whether a graph of the gradient is wanted is not known in the forward pass. Where
    it is (``create_graph=True``), gradients are enabled in the backward pass, and the
    plain formula is differentiated instead; also for many gradients at once
    (``is_grads_batched=True``, ``torch.func.vmap``), which only PyTorch's own operators
    take.

    Autocast is off: the arguments have their dtypes by now, and ``backward()`` may be
    called within autocast.
    """
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return ByHand.apply(type(computation), *computation)
    with without_autocast():
        result = computation.forward()
    return result[0] if isinstance(result, tuple) else result


class ByHand(Function):
    """See :func:`compute`."""

    @staticmethod
    def forward(ctx: FunctionCtx, kind: type, *arguments: object) -> Tensor:
        with without_autocast():
            result = kind(*arguments).forward()
        result, *kept = result if isinstance(result, tuple) else (result,)
        ctx.kind = kind
        ctx.save_for_backward(*(x for x in arguments if isinstance(x, Tensor)), *kept)
        # None where a tensor belongs, which is kept apart
        ctx.settings = [None if isinstance(x, Tensor) else (x,) for x in arguments]
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if each is None else each[0] for each in ctx.settings]
        needed, computation = ctx.needs_input_grad[1:], ctx.kind(*arguments)
        with without_autocast():
            if torch.is_grad_enabled() or is_batched(grad):
                grads = differentiated(computation, needed, grad)
            else:
                grads = computation.backward(grad, needed, *saved)
        return None, *grads, *[None] * (len(arguments) - len(grads))


def differentiated(
    computation: NamedTuple, needed: tuple[bool, ...], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of the plain formula, with their graph where it is asked for."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # one argument may be made of another: a view of each has this use of it alone
        uses = [x.view_as(x) if need else x for x, need in zip(computation, needed)]
        wanted = [use for use, need in zip(uses, needed) if need]
        out = type(computation)(*uses, *computation[len(uses) :]).plain()
    grads = iter(
        torch.autograd.grad(out, wanted, grad, create_graph=graph, allow_unused=True)
    )
    return [next(grads) if need else None for need in needed]
