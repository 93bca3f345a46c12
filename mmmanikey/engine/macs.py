"""How much a network computes."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def count_macs(call: Callable[[], object]) -> Counter[str]:
    """Multiply-accumulates of all matrix products and convolutions of a call.

    Args:
        call (Callable[[], object]): It runs the network, without gradients.

    Returns:
        Counter[str]: Those of each module without the modules in it, by names that
        begin with the class of the network, as in ``'Swin.patch_embed'``.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel  # since torch 2.3

    counter = FlopCounterMode(display=False)
    # it knows the plain forms of attention, not every fused one
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    counts = {
        name: sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
    }
    own = Counter(counts)
    for name, macs in counts.items():
        parent = name.rpartition('.')[0]
        while parent and parent not in counts:  # lists of modules do not run themselves
            parent = parent.rpartition('.')[0]
        if name != 'Global':
            own[parent or 'Global'] -= macs
    return own
