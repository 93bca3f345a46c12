"""Backbones with manifold keys, one class each for classification and dense tasks."""

from .swin import ManifoldKeySwin
from .vit import ManifoldKeyViT

__all__ = ['ManifoldKeySwin', 'ManifoldKeyViT']
