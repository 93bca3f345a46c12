"""Gradients that can be differentiated again, although a form's operators cannot."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

Backward = Callable[[FunctionCtx, Tensor], tuple[Tensor | None, ...]]


def by_hand(plain: Callable[..., Tensor]) -> Callable[[Backward], staticmethod]:
    """Decorator of the ``backward`` of a :class:`torch.autograd.Function`.

    Whether a graph of the gradient is wanted is not known in the forward pass. Where
    it is (``create_graph=True``), gradients are enabled in the backward pass, and the
    plain formula is differentiated at the saved inputs instead. Autocast is off: the
    forward pass has cast its inputs.

    Args:
        plain (Callable): ``plain(*ctx.saved_tensors, *ctx.settings)``, the same
            computation by PyTorch's operators. The Function takes the same arguments in
            the same order, and may save tensors of its own after these, counted by
            ``ctx.num_inputs``.
    """

    def decorate(backward: Backward) -> staticmethod:
        def either(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
            with torch.autocast(grad.device.type, enabled=False):
                if not torch.is_grad_enabled():
                    return (*backward(ctx, grad), *(None for _ in ctx.settings))
                inputs = ctx.saved_tensors[: ctx.num_inputs]
                return differentiate(plain, inputs, ctx, grad)

        return staticmethod(either)

    return decorate


def differentiate(
    plain: Callable[..., Tensor],
    inputs: tuple[Tensor | None, ...],
    ctx: FunctionCtx,
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``plain`` with their graph; see :func:`by_hand`."""
    wanted = [x for x, need in zip(inputs, ctx.needs_input_grad) if need]
    out = plain(*inputs, *ctx.settings)
    grads = iter(
        torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True)
    )
    needs = ctx.needs_input_grad
    return tuple(next(grads) if need else None for need in needs)


def once_by_operator(
    operator: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    *inputs: Tensor | None,
) -> Tensor:
    """Call a fused operator of PyTorch whose gradient has no derivative.

    Args:
        operator (Callable): ``operator(*inputs)``, with a gradient of its own.
        plain (Callable): ``plain(*inputs)``, the same computation by operators that can
            be differentiated twice.
        *inputs (Tensor, optional): All that a gradient may be wanted for.

    Returns:
        Tensor: ``operator(*inputs)``.
    """
    return OnceByOperator.apply(*inputs, operator, plain)


class OnceByOperator(Function):
    """See :func:`once_by_operator`; keeps the graph of the operator for one use."""

    @staticmethod
    def forward(ctx: FunctionCtx, *args: object) -> Tensor:
        *inputs, operator, plain = args
        ctx.save_for_backward(*inputs)
        ctx.plain = plain
        wanted = ctx.needs_input_grad
        leaves = [
            x.detach().requires_grad_() if need else x
            for x, need in zip(inputs, wanted)
        ]
        with torch.enable_grad():
            out = operator(*leaves)
        ctx.graph = [x for x, need in zip(leaves, wanted) if need], out
        return out.detach()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():
            inputs = ctx.saved_tensors
            leaves = [x for x, need in zip(inputs, wanted) if need]
            out = ctx.plain(*inputs)
        else:
            leaves, out = ctx.graph
        again = torch.is_grad_enabled()
        keep = again or is_graph_kept()
        grads = torch.autograd.grad(
            out, leaves, grad, create_graph=again, retain_graph=keep
        )
        grads = iter(grads)
        return tuple(next(grads) if need else None for need in wanted)


def is_graph_kept() -> bool:
    """Whether the backward pass that runs was called with ``retain_graph=True``.

    Where an old PyTorch cannot tell, the answer is yes.
    """
    return getattr(torch._C, '_get_current_graph_task_keep_graph', lambda: True)()
