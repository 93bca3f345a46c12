"""Backbones with manifold keys, one class each for classification and dense tasks."""

# what lets keys be free of decay, and the form of the feed-forward network, register
# themselves
from .. import decay  # noqa: F401, I001
from ..forms import ffn  # noqa: F401, I001
from .swin import ManifoldKeySwin
from .vit import ManifoldKeyViT

__all__ = ['ManifoldKeySwin', 'ManifoldKeyViT']
