"""Two layers and GELU between them, some tokens at a time.

The hidden layer is several times as wide as a feature map. On a CPU, writing all of it
to fresh memory costs more than its activation; in pieces it stays in the cache between
the two layers. On a GPU pieces bound the memory.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import Linear
from mmengine.model import Sequential
from torch import Tensor, nn

from .gradients import gelu_gradient_to
from .linear import add_outer, linear, linear_to, outer, product_of
from .pieces import sum_dtype, token_pieces, why_not_here

#: Layers of mmcv's ``FFN`` that it stands for, see :attr:`.choice.Form.replaces`.
FFN_LAYERS = {
    'layers': Sequential,
    'layers.0': Sequential,
    'layers.0.0': (nn.Linear, Linear),
    'layers.0.1': nn.GELU,
    'layers.0.2': nn.Dropout,
    'layers.1': (nn.Linear, Linear),
}


class Perceptron(NamedTuple):
    """W_2 (q * GELU(W_1 x + b_1)) + b_2, (T, O).

    Args:
        x (Tensor): Tokens, (T, C), any floating dtype.
        weight1 (Tensor): (D, C).
        bias1 (Tensor): (D).
        weight2 (Tensor): (O, D).
        bias2 (Tensor, optional): (O). ``None`` is zeros.
        gate (Tensor, optional): q, one factor for each of H equal parts of the hidden
            layer, (T, H). ``None`` is ones.
        keeps (bool): Whether W_1 x + b_1 is kept for the backward pass, or else
            computed again there.
        exact (bool): Whether the result rounds as PyTorch's, see
            :func:`.linear.must_be_exact`.
        approximate (str): As in :class:`torch.nn.GELU`.
    """

    x: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor | None
    gate: Tensor | None
    keeps: bool
    exact: bool
    approximate: str

    def plain(self) -> Tensor:
        x, weight1, bias1, weight2, bias2, gate, _, _, approximate = self
        hidden = F.gelu(F.linear(x, weight1, bias1), approximate=approximate)
        return F.linear(gated(hidden, gate), weight2, bias2)

    def forward(self) -> tuple[Tensor, ...]:
        """The result, and what is kept of each piece."""
        x, weight1, bias1, weight2, bias2, gate, keeps, exact, approximate = self
        product = product_of(exact)
        out = x.new_empty(len(x), len(weight2))
        kept, (cuts, memory) = [], self.pieces_and_memory()
        for cut in cuts:
            if exact and not keeps:
                entering = memory[: cut.stop - cut.start]
                torch.addmm(bias1, x[cut], weight1.t(), out=entering)
            else:
                entering = product(x[cut], weight1, bias1)
            hidden = activated(entering, approximate, memory)
            if keeps:
                kept.append(entering)
            if gate is not None:
                parts(hidden, gate).mul_(gate[cut, :, None])
            linear_to(out[cut], hidden, weight2, bias2, exact)
        return out, *kept

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...], *kept: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight1, bias1, weight2, bias2, gate, _, _, approximate = self
        grad_x = torch.empty_like(x) if needed[0] else None
        grad_weight1 = grad_weight2 = grad_bias1 = None
        grad_gate = None if gate is None else torch.empty_like(gate)
        cuts, memory = self.pieces_and_memory()
        dtype = x.dtype if len(cuts) == 1 else sum_dtype(x)
        for number, cut in enumerate(cuts):
            entering = kept[number] if kept else linear(x[cut], weight1, bias1)
            hidden = activated(entering, approximate, memory)
            inner = linear(grad[cut], weight2.t())
            if gate is not None:
                share = gate[cut, :, None]
                products = parts(inner, gate) * parts(hidden, gate)
                torch.sum(products, dim=2, out=grad_gate[cut])
                parts(inner, gate).mul_(share)
                parts(hidden, gate).mul_(share)
            if needed[3]:
                grad_weight2 = plus_outer(grad_weight2, grad[cut], hidden, dtype)
            gelu_gradient_to(inner, entering, approximate=approximate, grad_input=inner)
            of_bias = inner.sum(dim=0, dtype=dtype)
            grad_bias1 = of_bias if grad_bias1 is None else grad_bias1.add_(of_bias)
            if needed[1]:
                grad_weight1 = plus_outer(grad_weight1, inner, x[cut], dtype)
            if needed[0]:
                linear_to(grad_x[cut], inner, weight1.t())
        grad_bias2 = None if bias2 is None else grad.sum(dim=0)
        grads = grad_x, grad_weight1, grad_bias1, grad_weight2
        return *grads, grad_bias2, grad_gate

    def pieces_and_memory(self) -> tuple[list[slice], Tensor]:
        """Pieces of the tokens, and memory for the hidden layer of one.

        Fresh memory for each would cost more than its activation.
        """
        x, wide = self.x, len(self.weight1)
        cuts = token_pieces(x, wide) or [slice(0, 0)]
        return cuts, x.new_empty(cuts[0].stop, wide)


def activated(entering: Tensor, approximate: str, memory: Tensor) -> Tensor:
    """GELU, written to memory for as many tokens or more."""
    out = memory[: len(entering)]
    return torch.ops.aten.gelu.out(entering, approximate=approximate, out=out)


def plus_outer(
    total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype
) -> Tensor:
    """total + a^T b, in the memory of the total if there is one yet."""
    if total is None:
        return outer(a, b).to(dtype)
    add_outer(total, a, b)
    return total


def parts(hidden: Tensor, gate: Tensor) -> Tensor:
    """A hidden layer (T, D) cut for a gate (T, H), (T, H, D / H)."""
    return hidden.unflatten(1, (gate.shape[1], -1))


def gated(hidden: Tensor, gate: Tensor | None) -> Tensor:
    """The hidden layer (T, D) times a gate (T, H)."""
    if gate is None:
        return hidden
    return (parts(hidden, gate) * gate[..., None]).flatten(1)


def why_other_ffn(ffn: nn.Module, x: Tensor) -> str | None:
    """Why both layers are not those of :class:`Perceptron`, or None if they are."""
    layers = [*ffn.layers]
    if len(layers) < 3 or len(layers[0]) != 3:
        return 'there are other layers'
    (first, _, dropout), second = layers[:2]
    if first.bias is None or second.bias is None:
        return 'a layer has no bias'
    if dropout.training and dropout.p:
        return 'the hidden layer is dropped'
    return why_not_here(x, first.weight)
