"""Attention layers whose key is a manifold."""

# the forms of these layers register themselves
from ..forms import projections, windows  # noqa: F401, I001
from .swin import ManifoldKeyShiftWindowMSA, ManifoldKeyWindowMSA
from .vit import ManifoldKeyAttention

__all__ = ['ManifoldKeyAttention', 'ManifoldKeyShiftWindowMSA', 'ManifoldKeyWindowMSA']
