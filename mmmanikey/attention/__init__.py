"""Attention layers whose key is a manifold."""

from .multihead import ManifoldKeyAttention
from .shifted_window import ManifoldKeyShiftWindowMSA
from .window import ManifoldKeyWindowMSA

__all__ = ['ManifoldKeyAttention', 'ManifoldKeyShiftWindowMSA', 'ManifoldKeyWindowMSA']
