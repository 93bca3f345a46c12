"""KUA: chart perceptrons weighted for each token by memberships.

The memberships follow the unbalanced atlas of the same authors
(https://arxiv.org/abs/2305.10267), from which the strategy has its name; how they enter
the key (https://arxiv.org/abs/2402.00534) is our reading.
"""

from torch import Tensor, nn

from ..registry import KEYS
from .key import draw
from .vanilla import VanillaK


@KEYS.register_module()
class KUA(VanillaK):
    """Chart perceptrons weighted for each token by soft memberships.

    .. code-block:: text

        q = softmax_h(membership(x))
        k = sum_h q_h * conv2_h(GELU(conv1_h(s_h * x)))

    conv2's bias is weighted per token, so the attention sees it and it stays. A mixture
    that is gated per token does not fold. Cost per token: 2 H d C + H C
    multiply-accumulates. Arguments and errors as in :class:`VanillaK`.
    """

    conv2_bias = True

    #: Deviation of the membership logits at the start. Small, so that the memberships
    #: begin near 1/H, yet not zero: equal memberships hide conv2's bias from softmax.
    start_logit_std = 0.2

    def __init__(
        self,
        embed_dims: int,
        num_charts: int = 8,
        hidden_ratio: float = 1.0,
        act_cfg: dict | None = dict(type='GELU'),  # noqa: B006
        out_dims: int | None = None,
    ) -> None:
        super().__init__(embed_dims, num_charts, hidden_ratio, act_cfg, out_dims)
        self.membership = nn.Linear(embed_dims, num_charts)
        self.reset_parameters()

    def memberships(self, x: Tensor) -> Tensor:
        """Weights of the charts for each token, (B, N, H), summing to one."""
        return self.membership(x).softmax(dim=-1)

    def fuse(self, z: Tensor, x: Tensor) -> Tensor:
        q = self.memberships(x).transpose(1, 2)[..., None]  # (B, H, N, 1)
        return (q * z).sum(dim=1)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        draw(self.membership, self.start_logit_std * self.embed_dims**-0.5)
