"""Backbones with manifold keys, one class each for classification and dense tasks."""

# the form of the feed-forward network registers itself
from ..forms import ffn, swin_block  # noqa: F401, I001
from .swin import ManifoldKeySwin
from .vit import ManifoldKeyViT
from .with_keys import with_keys

__all__ = ['ManifoldKeySwin', 'ManifoldKeyViT', 'with_keys']
