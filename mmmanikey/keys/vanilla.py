"""VanillaK: a two-layer perceptron for each chart, and their mean.

The paper (https://arxiv.org/abs/2402.00534) names the strategy and says that charts are
group-wise 1-D convolutions; layer by layer it is our reading.
"""

from torch import Tensor, nn

from ..arguments import positive_number
from ..forms.folding import dense_perceptron, summed_conv2
from ..registry import KEYS
from .key import ManifoldKey, grouped_conv


def hidden_dims(hidden_ratio: float, embed_dims: int) -> int:
    """Width of a chart's hidden layer, d = round(r * C)."""
    dims = round(positive_number('hidden_ratio', hidden_ratio) * embed_dims)
    if dims < 1:
        raise ValueError(
            f'hidden_ratio {hidden_ratio} of embed_dims {embed_dims} rounds to no '
            'hidden channel at all'
        )
    return dims


@KEYS.register_module()
class VanillaK(ManifoldKey):
    """A two-layer perceptron over channels for each chart, and the mean of the charts.

    .. code-block:: text

        k = mean_h conv2_h(GELU(conv1_h(s_h * x)))

    conv1 maps C channels to d, conv2 d to C (or to ``out_dims``). conv2 has no bias: a
    constant added to every key adds the same number to all logits of a query, which
    softmax ignores. As a function of x this is one perceptron of hidden width H * d,
    and :meth:`fold` returns it. Cost per token: 2 H d C multiply-accumulates.

    Args:
        embed_dims (int): Channels C.
        num_charts (int): Charts H. Defaults to 8.
        hidden_ratio (float): r in the hidden width d = round(r C). Defaults to 1.0.
        act_cfg (dict, optional): Activation of the charts; ``None`` makes them linear.
            Defaults to ``dict(type='GELU')``.
        out_dims (int, optional): Channels of the key, those of conv2. Defaults to
            ``None``, C.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If ``act_cfg`` is no dict.
    """

    last = 'conv2'
    conv2_bias = False

    def __init__(
        self,
        embed_dims: int,
        num_charts: int = 8,
        hidden_ratio: float = 1.0,
        act_cfg: dict | None = dict(type='GELU'),  # noqa: B006
        out_dims: int | None = None,
    ) -> None:
        super().__init__(embed_dims, num_charts, act_cfg, out_dims)
        self.hidden_dims = hidden_dims(hidden_ratio, embed_dims)
        self.conv1 = grouped_conv(num_charts, embed_dims, self.hidden_dims)
        self.conv2 = grouped_conv(
            num_charts, self.hidden_dims, self.out_dims, bias=self.conv2_bias
        )
        ManifoldKey.reset_parameters(self)  # a subclass may add layers first

    def charts(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        u = self.expand(x).transpose(2, 3).flatten(1, 2)  # (B, H * C, N)
        z = self.conv2(self.act(self.conv1(u)))  # (B, H * out_dims, N)
        return z.unflatten(1, (self.num_charts, -1)).transpose(2, 3)

    def fuse(self, z: Tensor, x: Tensor) -> Tensor:
        return z.mean(dim=1)

    def fold(self) -> nn.Sequential:
        """The same as a dense perceptron, C -> H * d -> out_dims, for inference."""
        return dense_perceptron(self, summed_conv2(self) / self.num_charts)
