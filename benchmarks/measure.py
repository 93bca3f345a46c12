"""Measuring: times side by side, saved and peak bytes, MACs, the machine's own rate."""

import gc
import platform
import time
from collections.abc import Callable
from importlib import metadata

import torch
from torch import Tensor, nn

import mmmanikey
from mmmanikey.engine.macs import count_macs


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(
    calls: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Times of calls that take turns, so that all see the same noise.

    Every other round goes backwards: what drifts favours none of them.

    Args:
        calls (dict[str, Callable]): What to call, by name.
        rounds (int): Timed calls of each, after an untimed one.

    Returns:
        dict[str, list[float]]: Seconds, round by round.
    """
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for number in range(rounds):
        for name in reversed(calls) if number % 2 else calls:
            synchronize()
            start = time.perf_counter()
            calls[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def step(forward: Callable[[], Tensor], model: nn.Module) -> Callable[[], None]:
    """A training step without an optimiser: forward to a number, then backward.

    It leaves no gradients behind: those of many models would not fit together.
    """

    def run() -> None:
        forward().backward()
        model.zero_grad(set_to_none=True)

    return run


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the parameters.

    Each storage counts once, and whole, however many views of it are kept.
    """
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*model.parameters(), *model.buffers())
    }
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # keeps the graph, and with it the storages, alive
    del result
    gc.collect()  # before the next network keeps as much
    return sum(kept.values())


def peak_bytes(model: nn.Module, call: Callable[[], object]) -> int:
    """Peak of CUDA memory during a call, the model's parameters included.

    What other models hold at the same time does not count.
    """
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    synchronize()
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return torch.cuda.max_memory_allocated() - before + parameters


def busy_seconds(call: Callable[[], object]) -> float:
    """Time that a GPU works on a call, without what it waits for the CPU."""
    call()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        synchronize()
    return 1e-6 * sum(each.self_device_time_total for each in profile.key_averages())


def macs(call: Callable[[], object]) -> int:
    """Multiply-accumulates of all matrix products and convolutions of a call."""
    return sum(count_macs(call).values())


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-accumulates per second of one large matrix product, at its best."""
    size = 8192 if device.type == 'cuda' else 1024
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    seconds = []
    for _ in range(50):
        synchronize()
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return size**3 / min(seconds)


def conditions(device: torch.device, **settings) -> dict:
    """What a figure depends on: device, versions, threads, and the settings given."""
    on_gpu = device.type == 'cuda'
    modules = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'timm')
    modules += 'torchvision', 'triton'
    names = metadata.packages_distributions()
    versions = {m: metadata.version(names[m][0]) for m in modules if m in names}
    return {
        'device': torch.cuda.get_device_name(device) if on_gpu else processor(),
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
        'mmmanikey': mmmanikey.__version__,
        **versions,
        **settings,
    }


def processor() -> str:
    """Name of the processor, where Linux tells it."""
    try:
        with open('/proc/cpuinfo') as file:
            names = [line for line in file if line.startswith('model name')]
        return names[0].split(':', 1)[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
