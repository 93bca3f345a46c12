"""Replicas as ``nn.DataParallel`` makes them for its GPUs, without a GPU."""

import importlib
from unittest import mock

from torch import nn


def replica_of(model: nn.Module) -> nn.Module:
    """PyTorch's own replica, whose weights are plain attributes, on the CPU.

    What is broadcast to GPUs elsewhere is copied here.
    """
    module = importlib.import_module('torch.nn.parallel.replicate')

    def broadcast(tensors, devices, detach=False):
        return [[x.detach() * 1 if detach else x * 1 for x in tensors]]

    with mock.patch.object(module, '_broadcast_coalesced_reshape', broadcast):
        (replica,) = module.replicate(model, [0])
    assert not list(replica.parameters())
    return replica
