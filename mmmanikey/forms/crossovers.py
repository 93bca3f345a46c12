"""Where another form, or the plain code, is faster on a CPU.

Measured by ``benchmarks/crossovers.py``, in float32, where nothing is kept for a
backward pass. Where something is, all forms serve every size: they keep less. So they
do where oneDNN computes linear layers, and for keys.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .rule import is_traced

#: By form, the fewest values of an input (tokens times channels) from which on it is
#: faster than the plain code.
FEWEST_VALUES = {'tokens in pieces': 100_000, 'windows in pieces': 100_000}
#: Whether forms look here.
in_use = True


def why_small(form: str, x: Tensor) -> str | None:
    """Why a form is not the fastest for an input of few tokens, or None if it is.

    Args:
        form (str): Its name in :data:`FEWEST_VALUES`.
        x (Tensor): Its input, (B, N, C).
    """
    if not asked(x) or x.numel() >= FEWEST_VALUES[form]:
        return None
    return f'fewer than {FEWEST_VALUES[form]:,} values, and nothing is kept'


def asked(x: Tensor) -> bool:
    """Whether sizes count for this input: tracers and compilers would fix them."""
    if not in_use or torch.is_grad_enabled() or is_traced():
        return False
    return x.device.type == 'cpu'


@contextmanager
def ignored() -> Iterator[None]:
    """Forms serve all sizes inside."""
    global in_use
    before, in_use = in_use, False
    try:
        yield
    finally:
        in_use = before
