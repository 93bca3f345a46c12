"""Computations whose gradient is written by hand, for PyTorch's autograd.

A computation is a NamedTuple of its arguments, tensors and settings. It has three
methods: ``forward()`` is the result, ``backward(grad, needed)`` the gradients of the
first arguments, in their order, and ``plain()`` the result by operators that PyTorch
can differentiate. ``needed`` says of each argument whether its gradient is asked for.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

#: The gradient of GELU, written into memory that is given.
gelu_gradient_to = torch.ops.aten.gelu_backward.grad_input


class Computation(Protocol):
    """What :func:`compute` takes; a NamedTuple."""

    def forward(self) -> Tensor: ...

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]: ...

    def plain(self) -> Tensor: ...


def compute(computation: Computation) -> Tensor:
    """The result of a computation, which keeps its arguments for the backward pass.

    Whether a graph of the gradient is wanted is not known in the forward pass. Where
    it is (``create_graph=True``), gradients are enabled in the backward pass, and the
    plain formula is differentiated instead. Autocast is off: the arguments have their
    dtypes by now, and ``backward()`` may be called within autocast.
    """
    return ByHand.apply(type(computation), *computation)


class ByHand(Function):
    """See :func:`compute`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, kind: type[Computation], *arguments: object
    ) -> Tensor:
        tensors = [x if isinstance(x, Tensor) else None for x in arguments]
        ctx.save_for_backward(*tensors)
        ctx.settings = [
            x if tensor is None else None for x, tensor in zip(arguments, tensors)
        ]
        ctx.kind = kind
        with torch.autocast(arguments[0].device.type, enabled=False):
            return kind(*arguments).forward()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = zip(ctx.saved_tensors, ctx.settings)
        arguments = [setting if x is None else x for x, setting in saved]
        with torch.autocast(grad.device.type, enabled=False):
            needed, computation = ctx.needs_input_grad[1:], ctx.kind(*arguments)
            if torch.is_grad_enabled():
                return None, *differentiated(computation, needed, grad)
            grads = computation.backward(grad, needed)
        return None, *grads, *[None] * (len(arguments) - len(grads))


def differentiated(
    computation: Computation, needed: tuple[bool, ...], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of the plain formula, with their graph."""
    wanted = [argument for argument, need in zip(computation, needed) if need]
    out = computation.plain()
    grads = torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True)
    grads = iter(grads)
    return [next(grads) if need else None for need in needed]
