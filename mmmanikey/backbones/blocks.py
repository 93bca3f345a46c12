"""Blocks of the backbones: mmpretrain's, which may be computed again."""

from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor

from .. import forms
from ..forms.exporting import recomputed


class MayRecompute:
    """A block that is computed again in the backward pass while ``with_cp`` is true.

    mmpretrain's own way marks variables ready twice under DistributedDataParallel.
    """

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.with_cp:
            return recomputed(self.once, x, hw_shape)
        return self.once(x, hw_shape)


class ManifoldKeyBlock(MayRecompute, SwinBlock):
    """mmpretrain's block, which on CUDA may run in a faster form."""

    def once(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        form = forms.find(self, x, hw_shape) if x.is_cuda else None
        if form is not None:
            return form(self, x, hw_shape)
        x = self.attn(self.norm1(x), hw_shape) + x
        return self.ffn(self.norm2(x), identity=x)


class ManifoldKeyLayer(MayRecompute, TransformerEncoderLayer):
    """mmpretrain's encoder layer, which hands the token grid to its attention."""

    def forward(self, x: Tensor, hw_shape: tuple[int, int] | None = None) -> Tensor:
        return super().forward(x, hw_shape)

    def once(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        x = x + self.attn(self.ln1(x), hw_shape)
        return self.ffn(self.ln2(x), identity=x)
