"""Networks on a CUDA device that is not there, as they would run on an NVIDIA GPU.

Fake tensors have a device, a dtype and a shape, and no numbers. Our forms do not serve
them, see ``mmmanikey/forms/rule.py``, and nothing else of a GPU can be asked for: while
a network runs here, the answers that a GPU would give are put in the place of those
that this host gives. The package knows nothing of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from rents import set_to
from tally import Tally, nbytes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from mmmanikey.forms import choice, fused_windows, position_bias, rule, triton_choice
from mmmanikey.forms.position_bias import ALIGNMENT
from mmmanikey.forms.window_grid import window_grid

aten = torch.ops.aten
#: Products of each Triton kernel of SpatialK's mixing, of (N, N) and (N, C) for each
#: chart and window.
PRODUCTS = dict(forward_kernel=1, input_gradient_kernel=2, parameter_gradient_kernel=2)


@contextmanager
def fake_cuda(tally: Tally, triton: bool = True) -> Iterator[None]:
    """Fake tensors on CUDA inside, on which forms run as on real ones.

    Args:
        tally (Tally): Told of each Triton kernel.
        triton (bool): Whether Triton's kernels are served. Defaults to True.
    """

    def launch(
        kernel: object, grid: object, tensors: Sequence[Tensor], *_, **__
    ) -> None:
        name, flops = kernel.__name__, 0
        if name in PRODUCTS:
            x, scale = tensors[0], tensors[3]
            flops = 2 * PRODUCTS[name] * len(scale) * x.shape[1] * x.numel()
        tally.add(name, nbytes(tensors), flops)

    with ExitStack() as stack:
        # tensors are watched and no plain ones, by us alone
        stack.enter_context(set_to(choice, 'why_watched', lambda *_: None))
        stack.enter_context(set_to(rule, 'PLAIN', {*rule.PLAIN, FakeTensor}))
        stack.enter_context(set_to(triton_choice, 'serves', lambda _: triton))
        stack.enter_context(set_to(fused_windows, 'capability', lambda _: (9, 0)))
        stack.enter_context(set_to(position_bias, 'users_of', users_of))
        if triton:
            from mmmanikey.forms import triton_launch

            stack.enter_context(set_to(triton_launch, 'launch', launch))
        window_grid.cache_clear()
        stack.callback(window_grid.cache_clear)  # of fake tensors
        stack.enter_context(FakeTensorMode())
        stack.enter_context(torch.device('cuda'))
        stack.enter_context(FusedAttention())
        yield


def users_of(index: Tensor, entries: int) -> Tensor:
    """Most users of an entry are all tokens of a window, each with itself."""
    return index.new_empty(entries, len(index))


@contextmanager
def bfloat16() -> Iterator[None]:
    """Autocast to bfloat16 on CUDA, which ``torch.autocast`` refuses without a GPU."""
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', before[0])
        torch.set_autocast_dtype('cuda', before[1])


class FusedAttention(TorchFunctionMode):
    """Lets PyTorch's fused attention take its memory-efficient kernel.

    That is the one that serves a bias in bfloat16 on every NVIDIA GPU since Ampere.
    Without a device PyTorch would choose single products.
    """

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs=None
    ) -> object:
        if func is F.scaled_dot_product_attention:
            return efficient_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """What ``scaled_dot_product_attention`` does on CUDA, from its casts on."""
    tensors = [query, key, value, attn_mask]
    if torch.is_autocast_enabled('cuda'):
        dtype = torch.get_autocast_dtype('cuda')
        tensors = [None if x is None else x.to(dtype) for x in tensors]
    query, key, value, bias = tensors
    if bias is not None:
        if any(stride % ALIGNMENT for stride in bias.stride()[:-1]):  # it is copied
            tokens = bias.shape[-1]
            bias = F.pad(bias, (0, ALIGNMENT - tokens % ALIGNMENT))[..., :tokens]
        bias = bias.expand(*query.shape[:3], key.shape[2])
    learns = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (query, key, value, bias)
    )
    arguments = query, key, value, bias, learns, dropout_p
    return aten._scaled_dot_product_efficient_attention(*arguments, scale=scale)[0]


def move(model: nn.Module) -> nn.Module:
    """Put a network that was built on the CPU onto the fake device, in place."""
    moved = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if tensor not in moved:
                        moved[tensor] = fake_of(tensor)
                    tensors[name] = moved[tensor]
    return model


def fake_of(tensor: Tensor) -> Tensor:
    """A fake tensor, or parameter, of this shape and dtype."""
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake
