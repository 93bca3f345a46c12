"""What a tensor is computed from, by gradients. (Not from the paper.)"""

import torch
from torch import Tensor


def gradients(x: Tensor | None, leaves: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of a random functional of ``x``; None where it does not depend."""
    if not isinstance(x, Tensor) or not x.requires_grad or not leaves:
        return (None,) * len(leaves)
    return torch.autograd.grad(
        x, leaves, torch.randn_like(x), retain_graph=True, allow_unused=True
    )


def reaches(x: Tensor, leaf: Tensor) -> bool:
    """Whether ``x`` is, or is computed from, ``leaf``."""
    return x is leaf or gradients(x, [leaf])[0] is not None


def summed_axis(one: Tensor, product: Tensor, letters: list[str]) -> str:
    """Letter of the axis of a product that a softmax sums over, wherever it stands.

    It belongs to one of the factors; empty if what is summed belongs to both.
    """
    (grad,) = gradients(one, [product])
    places = grad.nonzero()
    varies = (places != places[:1]).any(0).tolist()
    axes = [x for x, several in zip(letters[2][::-1], varies[::-1]) if several]
    first, second, out = letters
    # a single key has no slope
    return next((x for x in axes or out[-1] if (x in first) != (x in second)), '')
