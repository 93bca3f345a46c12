"""Key strategies: from tokens to a key with several charts."""

from .base import ManifoldKey, build_key
from .channel import KUA, SimpleK, VanillaK
from .spatial import SpatialK

__all__ = ['KUA', 'ManifoldKey', 'SimpleK', 'SpatialK', 'VanillaK', 'build_key']
