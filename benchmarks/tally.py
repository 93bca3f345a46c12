"""Counts what a GPU is asked for: operators launched, bytes moved, and FLOPs.

Tensors may be fake ones, which have shapes and no numbers: such a count needs no GPU,
and is the same on every host.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import zip_longest
from operator import add

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

#: An NVIDIA H100 SXM, https://www.nvidia.com/en-us/data-center/h100/: bytes a second,
#: and FLOPs a second in bfloat16, of which large products are taken to reach 60 %.
BYTES_PER_SECOND = 3.3e12
FLOPS_PER_SECOND = 0.6 * 989e12
#: What a launch from PyTorch costs the CPU, roughly.
LAUNCH_SECONDS = 4e-6

#: They launch nothing: they reserve memory, or answer a question.
FREE = {
    *('aten::empty', 'aten::empty_like', 'aten::empty_strided', 'aten::new_empty'),
    *('aten::new_empty_strided', 'aten::_unsafe_view', 'aten::promote_types'),
    'prim::device',
}
#: They write their first argument without reading it.
OVERWRITING = {'aten::copy_', 'aten::_foreach_copy_', 'aten::fill_', 'aten::zero_'}


@dataclass
class Count:
    """What some operators ask for.

    Args:
        launches (int): Operators that are neither views nor allocations.
        bytes (int): Of all that they read and write; what an operator reads twice
            counts once, and an expanded tensor as what is in memory.
        flops (int): Of matrix products, convolutions and attention, two for each
            multiply-accumulate.
        busy (float): Estimate of the seconds that a GPU works: of each operator the
            time for its bytes or for its FLOPs, whichever is longer.
    """

    launches: int = 0
    bytes: int = 0
    flops: int = 0
    busy: float = 0.0

    def __add__(self, other: 'Count') -> 'Count':
        return Count(*map(add, astuple(self), astuple(other)))

    @property
    def estimate(self) -> float:
        """Estimate of the seconds on an H100, which works while the CPU launches."""
        return max(self.busy, self.launches * LAUNCH_SECONDS)


class Tally(TorchDispatchMode):
    """Counts the operators that run inside; a kernel is told to :meth:`add`."""

    def __init__(self) -> None:
        super().__init__()
        #: Counts by the name of the operator or kernel.
        self.by_name: dict[str, Count] = {}

    @property
    def total(self) -> Count:
        return sum(self.by_name.values(), Count())

    def add(self, name: str, moved: int, flops: int) -> None:
        """Count a launch."""
        busy = max(moved / BYTES_PER_SECOND, flops / FLOPS_PER_SECOND)
        count = Count(1, moved, flops, busy)
        self.by_name[name] = self.by_name.get(name, Count()) + count

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name
        if not func.is_view and name not in FREE:
            moved = nbytes(list(read(func, args, kwargs))) + nbytes(out)
            flops = flop_registry.get(func.overloadpacket)
            self.add(name, moved, flops(*args, **kwargs, out_val=out) if flops else 0)
        return out


def read(func: torch._ops.OpOverload, args: tuple, kwargs: dict) -> Iterator[object]:
    """The arguments whose values an operator reads."""
    for place, argument in enumerate(func._schema.arguments):
        overwritten = place == 0 and func._schema.name in OVERWRITING
        if not argument.is_out and not overwritten:
            yield args[place] if place < len(args) else kwargs.get(argument.name)


def nbytes(tensors: object) -> int:
    """Bytes in memory of the tensors in a nest of lists, each tensor once."""
    each = {id(x): x for x in tree_leaves(tensors) if isinstance(x, Tensor)}
    return sum(map(bytes_of, each.values()))


def bytes_of(tensor: Tensor) -> int:
    """Bytes in memory of a tensor; along an expanded dimension there is one item."""
    items = 1
    for length, stride in zip(tensor.shape, tensor.stride()):
        items *= length if stride or not length else 1
    return items * tensor.element_size()


@torch.no_grad()
def backward(outputs: list[Tensor], grads: list[Tensor]) -> dict[Tensor, Tensor]:
    """The backward pass, node by node in Python.

    PyTorch's own engine wants the device that fake tensors only pretend to be on. As
    in the engine, gradients of one tensor are added up, one of another dtype is cast,
    and one of a broadcast tensor is summed. Hooks are left out.

    Args:
        outputs (list[Tensor]): Where it starts.
        grads (list[Tensor]): The gradient of each.

    Returns:
        dict[Tensor, Tensor]: The gradient of each leaf, such as a parameter.
    """
    found = {}
    waiting = count_edges([out.grad_fn for out in outputs])
    arrived = {node: [None] * len(node._input_metadata) for node in waiting}
    for out, grad in zip(outputs, grads):
        hand_over(grad, arrived[out.grad_fn], out.output_nr, out.grad_fn)
    ready = [node for node, edges in waiting.items() if not edges]
    while ready:
        node = ready.pop()
        given, results = arrived.pop(node), ()
        if hasattr(node, 'variable'):
            found[node.variable] = given[0]
        elif any(grad is not None for grad in given):
            results = run(node, given)
        for edge, result in zip_longest(node.next_functions, results):
            following, place = edge
            if following is None:
                continue
            if result is not None:
                hand_over(result, arrived[following], place, following)
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    return found


def accumulate(grads: dict[Tensor, Tensor]) -> None:
    """What giving parameters their first gradients asks for, as in the engine.

    A gradient is taken as it is if its strides are the parameter's, else copied.
    """
    for parameter, grad in grads.items():
        if grad.stride() != parameter.stride():
            torch.empty_like(parameter).copy_(grad)


def count_edges(roots: list[Node]) -> dict[Node, int]:
    """How many gradients each node of a graph waits for."""
    edges, unseen = dict.fromkeys(roots, 0), [*dict.fromkeys(roots)]
    while unseen:
        for node, _ in unseen.pop().next_functions:
            if node is not None:
                if node not in edges:
                    edges[node] = 0
                    unseen.append(node)
                edges[node] += 1
    return edges


def hand_over(grad: Tensor, given: list[Tensor | None], place: int, node: Node) -> None:
    """Add a gradient to those that a node was given."""
    wanted = node._input_metadata[place]
    if grad.shape != wanted.shape:
        grad = grad.sum_to_size(wanted.shape)
    if grad.dtype != wanted.dtype:
        grad = grad.to(wanted.dtype)
    given[place] = grad if given[place] is None else given[place] + grad


def run(node: Node, given: list[Tensor | None]) -> Sequence[Tensor | None]:
    """The gradients that a node hands on."""
    if isinstance(node, BackwardCFunction):  # of a function written in Python
        # what was no tensor has no edge, but has a result
        needed = zip(node.needs_input_grad, node.apply(*given))
        results = iter([result for need, result in needed if need])
        return [next(results) if edge[0] else None for edge in node.next_functions]
    results = node(*given)
    return results if isinstance(results, tuple) else (results,)
