"""Attention layers whose key is a manifold."""

from .window import ManifoldKeyWindowMSA

__all__ = ['ManifoldKeyWindowMSA']
