"""Backbones with manifold keys, one class each for classification and dense tasks."""

from .swin import ManifoldKeySwin

__all__ = ['ManifoldKeySwin']
