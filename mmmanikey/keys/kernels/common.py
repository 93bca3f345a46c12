"""What the fast forms share: where they apply, autocast, and the size of a piece."""

import torch
from torch import Tensor, nn

#: Bytes of one chart activation buffer: some of them fit a core's share of the cache on
#: a CPU; on a GPU they must only be small beside the activations of the network.
BUFFER_BYTES = {'cpu': 2**22, 'cuda': 2**27}


def applies(act: nn.Module, x: Tensor) -> bool:
    """Whether the fast forms serve this activation and the device of ``x``.

    They know the derivative of GELU. Compilers and exporters get the plain form, which
    they can see through.
    """
    return (
        type(act) is nn.GELU
        and x.device.type in BUFFER_BYTES
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast to the dtype of autocast where it is on, as it would do for a product."""
    device = tensors[0].device.type
    # other devices, such as meta, may not know autocast
    if device not in BUFFER_BYTES or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor if tensor is None else tensor.to(dtype) for tensor in tensors)


def piece_length(bytes_each: int, device: torch.device) -> int:
    """How many items of ``bytes_each`` make a piece."""
    return max(1, BUFFER_BYTES[device.type] // bytes_each)
