"""SimpleK: one layer for each chart, their mean, and a layer that all of them share.

The paper (https://arxiv.org/abs/2402.00534) names the strategy and says that charts are
group-wise 1-D convolutions; layer by layer it is our reading.
"""

from torch import Tensor, nn

from ..forms.folding import dense_perceptron
from ..registry import KEYS
from .key import ManifoldKey, grouped_conv
from .vanilla import hidden_dims


@KEYS.register_module()
class SimpleK(ManifoldKey):
    """One layer over channels for each chart, their mean, then one shared linear layer.

    .. code-block:: text

        k = out(mean_h GELU(conv1_h(s_h * x)))

    conv1 maps C channels to d, and ``out`` d to C (or to ``out_dims``), without a bias
    (see :class:`VanillaK`). Cost per token: H d C + d C multiply-accumulates. Arguments
    and errors as in :class:`VanillaK`.
    """

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
        self.out = nn.Linear(self.hidden_dims, self.out_dims, bias=False)
        self.reset_parameters()

    def charts(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        u = self.expand(x).transpose(2, 3).flatten(1, 2)  # (B, H * C, N)
        z = self.act(self.conv1(u))  # (B, H * d, N)
        return z.unflatten(1, (self.num_charts, -1)).transpose(2, 3)  # (B, H, N, d)

    def fuse(self, z: Tensor, x: Tensor) -> Tensor:
        return self.out(z.mean(dim=1))

    def fold(self) -> nn.Sequential:
        """The same as a dense perceptron, C -> H * d -> out_dims, for inference."""
        charts = self.num_charts
        return dense_perceptron(self, self.out.weight.repeat(1, charts) / charts)
