"""Attention layers whose key is a manifold."""

from .multihead import ManifoldKeyAttention
from .window import ManifoldKeyWindowMSA

__all__ = ['ManifoldKeyAttention', 'ManifoldKeyWindowMSA']
