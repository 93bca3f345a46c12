"""mmcv's feed-forward network, some tokens at a time on a CPU. (Ours.)

On a CPU the hidden layer of a whole feature map, four times as wide as the map, costs
more time to write to memory and read back than its activation costs to compute.
"""

from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule
from torch import Tensor

from ..keys import kernels


class PiecewiseFFN(FFN):
    """Computes what a stock FFN computes, with the same state dict.

    Two layers with GELU and no dropout between them keep a hidden layer that no cache
    holds in pieces that fit one, and compute it again in the backward pass. Elsewhere,
    and on a GPU, this is the stock FFN.

    Args:
        stock (FFN): The network whose layers to take over.
    """

    def __init__(self, stock: FFN) -> None:
        BaseModule.__init__(self)
        self.embed_dims = stock.embed_dims
        self.feedforward_channels = stock.feedforward_channels
        self.num_fcs = stock.num_fcs
        self.add_identity = stock.add_identity
        self.layers = stock.layers
        self.dropout_layer = stock.dropout_layer
        self.gamma2 = stock.gamma2

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Apply the layers and add the identity.

        Args:
            x (Tensor): (B, N, C).
            identity (Tensor, optional): What to add; ``x`` itself by default.

        Returns:
            Tensor: (B, N, C).
        """
        if not self.in_pieces(x):
            return super().forward(x, identity)
        (first, act, _), second, *rest = self.layers
        out = kernels.chart_mlp(
            x,
            x.new_ones(1, self.embed_dims),
            first.weight[None],
            first.bias[None],
            second.weight[None],
            second.bias,
            approximate=act.approximate,
        )
        for layer in rest:  # dropout, context broadcasting
            out = layer(out)
        out = self.gamma2(out)
        if not self.add_identity:
            return self.dropout_layer(out)
        return (x if identity is None else identity) + self.dropout_layer(out)

    def in_pieces(self, x: Tensor) -> bool:
        """Whether the fast form applies."""
        _, act, dropout = self.layers[0]
        hidden_bytes = (
            x.numel() // x.shape[-1] * self.feedforward_channels * x.element_size()
        )
        return (
            x.device.type == 'cpu'
            and hidden_bytes > kernels.BUFFER_BYTES['cpu']
            and self.num_fcs == 2
            and not (self.training and dropout.p)
            and kernels.applies(act, x)
        )
