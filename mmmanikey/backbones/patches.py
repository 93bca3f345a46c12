"""Patches of images and of feature maps.

mmpretrain merges patches by :class:`torch.nn.Unfold`, which takes channels first: the
map is copied into that order, its columns are written, and they are copied once more
into the order of tokens. Non-overlapping patches need only one copy.
"""

import torch
from mmcv.cnn.bricks.transformer import AdaptivePadding, PatchEmbed, PatchMerging
from torch import Tensor, nn

from ..forms.exporting import padded
from ..keys.windows import windows_along


class PatchPadding(AdaptivePadding):
    """mmcv's padding to whole patches, which an exporter can write for any size.

    mmcv computes it with Python's ``math``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad images (B, C, H, W) with zeros."""
        settings = zip(self.kernel_size, self.dilation, self.stride)
        spare = [
            (kernel - 1) * dilation + 1 - stride
            for kernel, dilation, stride in settings
        ]
        if min(spare) < 0:  # patches with gaps
            return super().forward(x)
        below, right = (
            windows_along(side, stride) * stride + more - side
            for side, stride, more in zip(x.shape[2:], self.stride, spare)
        )
        above = left = 0
        if self.padding == 'same':
            above, left = below // 2, right // 2
        return padded(x, (left, right - left, above, below - above))


def pad_for_exporters(layer: PatchEmbed | PatchMerging) -> None:
    """Replace the padding of a layer of patches, if it has one, by ours."""
    if layer.adaptive_padding is not None:
        layer.adaptive_padding.__class__ = PatchPadding


class PatchUnfold(nn.Unfold):
    """:class:`torch.nn.Unfold`, faster for patches that do not overlap.

    The output is the same; in memory the channels of a patch lie side by side, as
    those of a token do.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), fastest with channels last, as (B, C * area, patches)."""
        high, wide = self.kernel_size
        apart = self.stride == self.kernel_size
        if not apart or self.dilation != (1, 1) or self.padding != (0, 0):
            return super().forward(x)
        rows, cols = x.shape[2] // high, x.shape[3] // wide
        x = x[:, :, : rows * high, : cols * wide].permute(0, 2, 3, 1)
        # whole rows of channels are written one after the other: a copy of the
        # permuted map would write ``wide`` numbers at a time, and took 3 to 6 times as
        # long on a CPU
        lines = x.reshape(-1, high, cols, wide, x.shape[3]).unbind(1)
        places = [place for line in lines for place in line.unbind(2)]
        patches = torch.stack(places, dim=3).flatten(2)  # (B * rows, cols, C * area)
        return patches.view(-1, rows * cols, patches.shape[2]).transpose(1, 2)
