"""Blocks of the backbones: mmpretrain's, which may be computed again."""

from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor

from .. import forms
from ..forms.exporting import recomputed


class ManifoldKeyBlock(SwinBlock):
    """mmpretrain's block, which on CUDA may run in a faster form."""

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        form = forms.find(self, x, hw_shape) if x.is_cuda else None
        return form(self, x, hw_shape) if form else super().forward(x, hw_shape)


class RecomputedBlock(ManifoldKeyBlock):
    """A block that is computed again in the backward pass, by ``with_cp=True``.

    mmpretrain's own way marks variables ready twice under DistributedDataParallel.
    """

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return recomputed(super().forward, x, hw_shape)


class ManifoldKeyLayer(TransformerEncoderLayer):
    """mmpretrain's encoder layer, which hands the token grid to its attention."""

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        x = x + self.attn(self.ln1(x), hw_shape)
        return self.ffn(self.ln2(x), identity=x)


class RecomputedLayer(ManifoldKeyLayer):
    """As :class:`RecomputedBlock`."""

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return recomputed(super().forward, x, hw_shape)
