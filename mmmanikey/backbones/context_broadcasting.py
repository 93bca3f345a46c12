"""Context broadcasting.

Hyeon-Woo et al., *Scratching Visual Transformer's Back with Uniform Attention*,
https://arxiv.org/abs/2210.08457, Section 4: every token gets the mean of all tokens.
"""

from torch import Tensor, nn


class ContextBroadcasting(nn.Module):
    """y = (y + mean over tokens of y) / 2, without parameters.

    Belongs at the end of the MLP, before drop-path and the residual. On a key it would
    only halve the temperature, since softmax ignores what is the same for all keys.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Broadcast the mean token of ``x``, (B, N, C) -> (B, N, C)."""
        return (x + x.mean(dim=1, keepdim=True)) / 2
