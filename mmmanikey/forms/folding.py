"""Charts over channels as two dense layers.

Every chart sees the same tokens, so "scale, then group-wise convolution" is one dense
product with the scale folded into the weights, and "convolution, then a sum over the
charts" is another. No H-fold copy of x is made.
"""

import copy

import torch
from torch import Tensor, nn


def folded_conv1(key: nn.Module) -> Tensor:
    """conv1 with the scale folded in, one dense weight (H * d, C)."""
    weight = key.conv1.weight.view(key.num_charts, -1, key.embed_dims)
    return (weight * key.scale[:, None]).flatten(0, 1)


def summed_conv2(key: nn.Module) -> Tensor:
    """conv2 and a sum over the charts, one dense weight (out_dims, H * d)."""
    weight = key.conv2.weight.view(key.num_charts, key.out_dims, -1)
    return weight.transpose(0, 1).flatten(1)


@torch.no_grad()
def dense_perceptron(key: nn.Module, second: Tensor) -> nn.Sequential:
    """Linear(C -> H * d), the activation, and Linear(H * d -> C).

    Args:
        key (nn.Module): VanillaK or SimpleK.
        second (Tensor): Weight of the second layer, (C, H * d).

    Raises:
        NotImplementedError: If a subclass with another formula inherits its ``fold``.
    """
    parts, bases = ('charts', 'fuse', 'fold'), type(key).__mro__
    if len({next(c for c in bases if part in vars(c)) for part in parts}) > 1:
        raise NotImplementedError(
            f'{type(key).__name__} has a formula of its own, which does not fold'
        )
    first = nn.utils.skip_init(nn.Linear, key.embed_dims, second.shape[1])
    last = nn.utils.skip_init(nn.Linear, *second.shape[::-1], bias=False)
    perceptron = nn.Sequential(first, copy.deepcopy(key.act), last).to(second)
    first.weight.copy_(folded_conv1(key))
    first.bias.copy_(key.conv1.bias)
    last.weight.copy_(second)
    return perceptron
