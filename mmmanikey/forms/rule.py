"""The rule: a form may stand in for plain modules only where no code can observe it.

A form computes what some modules compute, without calling them and with gradients
written by hand. Code that looks inside (a hook, an adapter, a pruned or quantised
weight, a tracer, a transform of ``torch.func``) would see another network than the
stock one. So a form is refused wherever one of them is found, and the plain modules
run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)

HOOK_DICTS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)
GLOBAL_HOOKS = tuple(f'_global{name}' for name in HOOK_DICTS)

if hasattr(torch.compiler, 'is_compiling'):  # since torch 2.3
    is_compiling = torch.compiler.is_compiling
else:
    is_compiling = torch._utils.is_compiling


def replaceable() -> tuple[Callable, ...]:
    """What computes layers that forms do not call, and may be replaced in torch."""
    return (
        *(F.linear, F.conv1d, F.gelu, F.softmax, F.dropout, F.layer_norm),
        nn.Linear.forward,  # the other layers' are looked at by each form
    )


STOCK = replaceable()
#: PyTorch's own classes of tensors.
PLAIN = frozenset({Tensor, nn.Parameter})

#: Whether a tensor is many at once, as gradients are with ``is_grads_batched=True``.
is_legacy = getattr(torch._C._functorch, 'is_legacy_batchedtensor', lambda x: False)


def is_batched(grad: Tensor) -> bool:
    """Whether it is many at once, also where ``torch.func.vmap`` asked for them."""
    return is_legacy(grad) or torch._C._functorch.is_batchedtensor(grad)


def is_traced() -> bool:
    """Whether operators are recorded by a compiler, an exporter or fake tensors.

    Callers then use plain operators, compute nothing for one size beforehand, and keep
    no tensor.
    """
    return is_compiling() or is_exported() or has_fake_tensors()


def is_exported() -> bool:
    """Whether a graph is written that may be run with other batches and sizes.

    That is ``torch.export``, which old versions of torch do not announce, and
    ``torch.jit.trace``, on which the older ONNX exporter and OpenVINO build.
    """
    exporting = getattr(torch.compiler, 'is_exporting', bool)
    return exporting() or torch.jit.is_tracing()


def has_fake_tensors() -> bool:
    """Whether new tensors are fake or proxies, as those of ``make_fx`` are."""
    modes = _get_current_dispatch_mode_stack()
    return any(isinstance(m, (FakeTensorMode, ProxyTorchDispatchMode)) for m in modes)


@contextmanager
def real_tensors() -> Iterator[None]:
    """New tensors are on the CPU and hold numbers, whatever the default device is."""
    with _disable_current_modes(), torch.device('cpu'):
        yield


def untraced(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator of what is left out where operators are recorded.

    A check of sizes would tie a graph to one of them, and fake tensors hold nothing
    that could be drawn.
    """

    @wraps(function)
    def call(*args: object) -> None:
        if not is_traced():
            function(*args)

    return call


def why_changed(module: nn.Module) -> str | None:
    """Why the modules inside ``module`` must be called, or None if they need not be.

    Args:
        module (nn.Module): What a form replaces. The module itself is called, so its
            own hooks run in any case; those of the modules inside it would not.
    """
    if any(getattr(torch_modules, name) for name in GLOBAL_HOOKS):
        return 'there is a global module hook'
    if replaceable() != STOCK:
        return 'a function or a layer of torch was replaced'
    layers = [module]
    for layer in layers:  # and those inside, which are added; asked for every call
        inside = layer.__dict__
        if layer is not module:
            for hooks in HOOK_DICTS:
                if inside.get(hooks):
                    return f'a {type(layer).__name__} inside has hooks'
            if 'forward' in inside:
                return f'the forward of a {type(layer).__name__} inside was replaced'
        methods = own_methods(type(layer))
        if methods and any(map(inside.__contains__, methods)):
            return f'a method of a {type(layer).__name__} was replaced'
        for tensors in (inside['_parameters'], inside['_buffers']):
            for tensor in tensors.values():
                if tensor is not None and type(tensor) not in PLAIN:
                    return f'a weight is a {type(tensor).__name__}'
        if children := inside['_modules']:
            layers += [each for each in children.values() if each is not None]
    return None


@torch.compiler.assume_constant_result
def own_methods(cls: type) -> tuple[str, ...]:
    """Names of the methods that a class and its bases have beside PyTorch's.

    A compiler calls it, as that of torch 2.11 cannot trace it.
    """
    return find_own_methods(cls)


@lru_cache(maxsize=1024)
def find_own_methods(cls: type) -> tuple[str, ...]:
    """See :func:`own_methods`."""
    bases = [b for b in cls.__mro__ if not b.__module__.startswith('torch.')]
    names = {name for base in bases for name in vars(base)} - {*dir(nn.Module)}
    return tuple(name for name in names if callable(getattr(cls, name)))


def why_watched(*inputs: object) -> str | None:
    """Why PyTorch's operators must run one by one, or None if they need not.

    Args:
        *inputs (object): What the module is called with; tensors are looked at.
    """
    if is_traced():
        return 'a tracer or compiler is looking'
    if any(isinstance(x, Tensor) and not is_plain(x) for x in inputs):
        return 'an input is a tensor subclass'
    if torch._C._len_torch_dispatch_stack():
        return 'a dispatch mode is active'
    modes = _get_current_function_mode_stack()
    if any(type(mode) is not DeviceContext for mode in modes):
        return 'a function mode is active'
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return 'a transform of torch.func is active'
    if torch.autograd.forward_ad._current_level >= 0:
        return 'forward-mode differentiation is active'
    return None


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is of PyTorch's own class, and of no subclass."""
    return type(tensor) in PLAIN
