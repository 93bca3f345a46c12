"""Key strategies: from tokens to a key with several charts."""

# the forms of these keys register themselves, and so does what exempts from decay
from ..forms import channel_keys, spatial_key  # noqa: F401, I001
from . import decay  # noqa: F401
from .from_config import build_key, with_residual
from .key import ManifoldKey
from .kua import KUA
from .simple import SimpleK
from .spatial import SpatialK
from .vanilla import VanillaK

__all__ = [
    'KUA',
    'ManifoldKey',
    'SimpleK',
    'SpatialK',
    'VanillaK',
    'build_key',
    'with_residual',
]
