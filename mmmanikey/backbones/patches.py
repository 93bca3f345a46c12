"""Patches of a feature map without copies of it for patch merging. (Ours.)

mmpretrain merges patches by :class:`torch.nn.Unfold`, which wants channels first: the
map is copied, its columns are written, and they are copied once more into the order of
tokens. Patches that do not overlap are one permutation.
"""

from torch import Tensor, nn


class PatchUnfold(nn.Unfold):
    """:class:`torch.nn.Unfold` of patches side by side, ready to be tokens.

    Its output is the same; in memory the channels of a patch lie together.

    Args:
        stock (nn.Unfold): The layer whose settings to take over.
    """

    def __init__(self, stock: nn.Unfold) -> None:
        super().__init__(stock.kernel_size, stock.dilation, stock.padding, stock.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Cut into patches.

        Args:
            x (Tensor): (B, C, H, W), fastest with channels last in memory.

        Returns:
            Tensor: (B, C * kernel height * kernel width, patches).
        """
        high, wide = self.kernel_size
        apart = self.stride == self.kernel_size
        if not apart or self.dilation != (1, 1) or self.padding != (0, 0):
            return super().forward(x)
        rows, cols = x.shape[2] // high, x.shape[3] // wide
        x = x[:, :, : rows * high, : cols * wide]
        x = x.unflatten(3, (cols, wide)).unflatten(2, (rows, high))
        x = x.permute(0, 2, 4, 1, 3, 5)  # (B, rows, cols, C, high, wide)
        return x.flatten(3).flatten(1, 2).transpose(1, 2)
