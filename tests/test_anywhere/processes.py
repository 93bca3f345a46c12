"""What each of two processes finds of families under DDP and FSDP2."""

import copy
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

# A Linear layer, torch's attention, a convolution with its heads outermost, and a
# weight that is read.
FAMILIES = ('timm-ViT', 'torchvision-ViT', 'timm-CoAtNet', 'torchvision-Swin')
TESTS = Path(__file__).parent


def launch(folder):
    """Run all cases in two processes; what each of them found."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    torch.multiprocessing.start_processes(
        run, args=(port, str(folder)), nprocs=2, start_method='spawn'
    )
    return [torch.load(Path(folder, f'{rank}.pth')) for rank in range(2)]


def run(rank, port, folder):
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    try:
        found = {
            (name, wrapper.__name__): compare(name, wrapper, rank)
            for name in FAMILIES
            for wrapper in (distributed, sharded)
        }
        torch.save(found, Path(folder, f'{rank}.pth'))
    finally:
        dist.destroy_process_group()


def distributed(model):
    return nn.parallel.DistributedDataParallel(model)


def sharded(model):
    """Each layer with a key is a unit of its own, and so is the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from mmmanikey.attention import keyed

    mesh = init_device_mesh('cpu', (2,))
    for name, layer in keyed.keyed_layers(model).items():
        is_called = isinstance(layer, (keyed.KeyedLayer, keyed.KeyedAttention))
        attention = model.get_submodule(name.rpartition('.')[0])
        fully_shard(layer if is_called else attention, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def compare(name, wrapper, rank):
    """How far two steps on halves of a batch lead from those on the whole."""
    from test_families import case_of, outputs

    import mmmanikey

    case = case_of(name)
    plain = case.keyed()
    wrapped = wrapper(copy.deepcopy(plain))
    for model, x in ((plain, case.x), (wrapped, case.x[rank : rank + 1])):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            outputs(model, x).square().mean().backward()
            optimizer.step()
    keys = mmmanikey.key_state_dict(wrapped)
    keys = {n.removeprefix('module.'): whole(x) for n, x in keys.items()}
    expected = mmmanikey.key_state_dict(plain)
    assert keys.keys() == expected.keys()
    start = mmmanikey.key_state_dict(case.keyed())
    return dict(
        moved=max((expected[n] - start[n]).abs().max().item() for n in keys),
        error=max((keys[n] - expected[n]).abs().max().item() for n in keys),
    )


def whole(x):
    return x.full_tensor() if hasattr(x, 'full_tensor') else x
