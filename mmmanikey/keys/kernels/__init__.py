"""Fast forms of the keys that keep only their input for the backward pass.

Written down plainly, H charts multiply what an attention layer saves for the backward
pass, and the memory traffic of the forward pass, by H. The forms here work on pieces
that fit a cache, and compute the charts a second time in the backward pass.
"""

from .chart_mlp import chart_mlp
from .choice import mix_windows, triton_applies
from .common import BUFFER_BYTES, applies, is_untouched
from .token_mixing import token_mixing

__all__ = [
    'BUFFER_BYTES',
    'applies',
    'chart_mlp',
    'is_untouched',
    'mix_windows',
    'token_mixing',
    'triton_applies',
]
