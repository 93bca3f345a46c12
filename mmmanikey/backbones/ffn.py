"""Feed-forward networks of our blocks: mmcv's may run in a faster form."""

from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from .. import forms
from .context_broadcasting import ContextBroadcasting


def adopt_ffn(
    stock: nn.Module, context_broadcasting: bool, has_linear_key: bool = True
) -> None:
    """Make the feed-forward network of a block ours, in place.

    One of another class than mmcv's, such as the SwiGLU of DINOv2's giant, keeps its
    class. A layer scale commutes with the mean over tokens, so the broadcast may come
    after it. ``has_linear_key`` is of the attention in the block.
    """
    if type(stock) is FFN:
        stock.__class__ = FeedForward
        stock.has_linear_key = has_linear_key
        if context_broadcasting:
            stock.layers.append(ContextBroadcasting())
    elif context_broadcasting:
        drop = stock.dropout_layer
        stock.dropout_layer = nn.Sequential(ContextBroadcasting(), drop)


class FeedForward(FFN):
    """Computes what a stock FFN computes, with the same state dict."""

    #: Whether the key of the attention in its block is linear, or added to such a one.
    has_linear_key = True

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Apply the layers to (B, N, C) and add the identity, by default ``x``."""
        form = forms.find(self, x)
        out = self.layers(x) if form is None else form(self, x)
        out = self.dropout_layer(self.gamma2(out))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out
