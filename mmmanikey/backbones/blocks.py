"""Blocks of the backbones: mmpretrain's, which may be computed again."""

from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor

from ..forms.exporting import recomputed


class RecomputedBlock(SwinBlock):
    """A block that is computed again in the backward pass, by ``with_cp=True``.

    mmpretrain's own way marks variables ready twice under DistributedDataParallel.
    """

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """One block of tokens (B, h * w, C)."""
        return recomputed(super().forward, x, hw_shape)


class ManifoldKeyLayer(TransformerEncoderLayer):
    """mmpretrain's encoder layer, which hands the token grid to its attention.

    Attributes:
        with_cp (bool): Compute the layer again in the backward pass.
    """

    with_cp = False

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """One layer.

        Args:
            x (Tensor): (B, N, C), extra tokens first, then the grid row by row.
            hw_shape (tuple[int, int]): Height and width of the grid.

        Returns:
            Tensor: (B, N, C).
        """
        if self.with_cp:
            return recomputed(self.compute, x, hw_shape)
        return self.compute(x, hw_shape)

    def compute(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, whatever ``with_cp`` is."""
        x = x + self.attn(self.ln1(x), hw_shape)
        return self.ffn(self.ln2(x), identity=x)
