"""Feed-forward networks of our blocks: mmcv's may run in a faster form."""

from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from .. import forms
from .context_broadcasting import ContextBroadcasting


def adopt_ffn(stock: nn.Module, context_broadcasting: bool) -> None:
    """Make the feed-forward network of a block ours, in place.

    Args:
        stock (nn.Module): mmpretrain's; one of another class than :class:`FFN`, such
            as the SwiGLU of DINOv2's giant, keeps its class.
        context_broadcasting (bool): Broadcast the mean token at its end. A layer scale
            commutes with the mean over tokens, so the broadcast may come after it.
    """
    if type(stock) is FFN:
        stock.__class__ = FeedForward
        if context_broadcasting:
            stock.layers.append(ContextBroadcasting())
    elif context_broadcasting:
        drop = stock.dropout_layer
        stock.dropout_layer = nn.Sequential(ContextBroadcasting(), drop)


class FeedForward(FFN):
    """Computes what a stock FFN computes, with the same state dict."""

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Apply the layers and add the identity.

        Args:
            x (Tensor): (B, N, C).
            identity (Tensor, optional): What to add; ``x`` itself by default.

        Returns:
            Tensor: (B, N, C).
        """
        form = forms.find(self, x)
        out = self.layers(x) if form is None else form(self, x)
        out = self.dropout_layer(self.gamma2(out))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out
