"""What every process of a distributed test runs; the tests read what it found.

One process group runs all cases: each costs milliseconds, and starting a process
seconds. Every rank computes what one process makes of the whole batch, and compares.
"""

import copy
import itertools
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import tiny
import torch
import torch.distributed as dist
from launch import CONTEXT
from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmmanikey.engine import cli
from mmmanikey.engine.running import checked_data

KEYS = {
    None: None,
    'VanillaK': dict(type='VanillaK', num_charts=2),
    'SimpleK': dict(type='SimpleK', num_charts=2),
    'KUA': dict(type='KUA', num_charts=2),
    'SpatialK': dict(type='SpatialK', num_charts=2),
}
DATA_CASES = ('whole', 'missing', 'rank 1 fails')
FAMILIES = ('swin', 'vit')
#: Frozen stages or layers, of two, and whether to recompute them and to share the batch
#: unevenly. Four processes share what are two cores on many a machine: fewer cases.
CASES = {
    2: [(-1, False), (-1, True), (0, True), (1, True), (2, False)],
    4: [(-1, False), (1, True)],
}


def free_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def launch(world_size, folder):
    """Run all cases in ``world_size`` processes; what rank 0 found."""
    port = free_port()
    # of launch.py's server, which has imported the frameworks
    torch.multiprocessing.start_processes(
        run,
        args=(world_size, port, str(folder)),
        nprocs=world_size,
        start_method=CONTEXT.get_start_method(),
    )
    return torch.load(Path(folder, 'found.pth'), weights_only=False)


def run(rank, world_size, port, folder):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    try:
        found = dict(
            gradients=all_gradients(rank, world_size),
            metrics=metrics(rank, world_size),
            checks=[data_check(rank, case) for case in DATA_CASES],
            background=[background(rank, empty) for empty in ([0], range(world_size))],
        )
        if world_size == 2:
            import sharded

            found['sharded'] = sharded.compare(Path(folder))
        everyone = all_gather_object(found)
        if rank == 0:
            torch.save(everyone, Path(folder, 'found.pth'))
    finally:
        dist.destroy_process_group()


class Net(nn.Module):
    """A backbone and a number for each image, made of all its maps."""

    def __init__(self, family, key, **options):
        super().__init__()
        key = KEYS[key]
        if family == 'swin':
            self.backbone = tiny.swin(key, drop_path_rate=0.0, **options)
            channels = [8, 16]
        else:
            if key and key['type'] == 'SpatialK':
                key = dict(key, window_size=4)
            self.backbone = tiny.vit(key, out_indices=(0, 1), **options)
            channels = [8, 8]
        self.heads = nn.ModuleList(nn.Linear(c, 1) for c in channels)

    def forward(self, x):
        maps = self.backbone(x)
        return sum(head(m.mean((2, 3))) for head, m in zip(self.heads, maps))


def all_gradients(rank, world_size):
    """The worst difference for each family and key."""
    found = {}
    for family, (number, key) in itertools.product(FAMILIES, enumerate(KEYS)):
        differences = []
        # two cases for each key, of two processes two keys for each case
        cases = CASES[world_size]
        for frozen, extra in {cases[(number + i) % len(cases)] for i in (0, 1)}:
            torch.manual_seed(0)
            net = Net(family, key, frozen_stages=frozen, with_cp=extra).train()
            differences.append(compare_gradients(net, rank, world_size, uneven=extra))
        found[family, key] = max(differences)
    return found


def compare_gradients(net, rank, world_size, uneven):
    """How far DDP's gradients are from those of one process, relative to the largest.

    If ``uneven`` the last rank has one image and the others have two. The second
    of two steps is compared: DDP notices there what the first left without a gradient.
    """
    ours = copy.deepcopy(net)
    ddp = MMDistributedDataParallel(
        module=ours, broadcast_buffers=False, find_unused_parameters=False
    )
    count = 2 * world_size - uneven
    mine = slice(2 * rank, 2 * rank + 2)
    for _ in range(2):
        x = torch.randn(count, 3, 16, 16)
        ours.zero_grad()
        # DDP averages over ranks: each adds its sum over the images of all, times ranks
        (ddp(x[mine]).square().sum() * world_size / count).backward()
    net(x).square().mean().backward()
    largest, difference = 0.0, 0.0
    for p, q in zip(net.parameters(), ours.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
        if p.grad is not None:
            largest = max(largest, p.grad.abs().max().item())
            difference = max(difference, (p.grad - q.grad).abs().max().item())
    return difference / largest


def metrics(rank, world_size):
    """Accuracy over seven images, in one process and over all: (plain, gathered).

    Seven do not divide: the sampler gives some rank an image twice.
    """
    from mmengine.dataset import DefaultSampler
    from mmengine.evaluator import Evaluator
    from mmpretrain.evaluation import Accuracy
    from mmpretrain.structures import DataSample

    torch.manual_seed(0)
    net = Net('swin', 'SpatialK').eval()
    images, labels = torch.randn(7, 3, 32, 32), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    evaluator = Evaluator([Accuracy(topk=1)])
    with torch.no_grad():
        scores = net(images)[:, 0]
        # between two scores: one image alone is rounded otherwise than seven
        threshold = scores.sort().values[3:5].mean()
        for i in DefaultSampler(labels, shuffle=False):
            found = net(images[i : i + 1])[0] > threshold
            sample = DataSample().set_gt_label(labels[i])
            evaluator.process([sample.set_pred_label(found.long())])
    plain = ((scores > threshold) == labels).float().mean().item() * 100
    return plain, evaluator.evaluate(7)['accuracy/top1']


class Images:
    """Ten images of a data set, the last of which may be missing."""

    ann_file = 'images.json'

    def __init__(self, case):
        self.last = 'missing.png' if case == 'missing' else __file__

    def __len__(self):
        return 10

    def get_data_info(self, index):
        return dict(img_path=__file__ if index < 9 else self.last)


def data_check(rank, case):
    """How often a rank asked whether a file is there, and what it was told."""

    class Loader:
        @property
        def dataset(self):
            if case == 'rank 1 fails' and rank == 1:
                raise OSError('no such device')
            return Images(case)

    runner = SimpleNamespace(
        cfg=Config(dict(train_dataloader=dict(batch_size=1))),
        train_dataloader=Loader(),
    )
    told = None
    with patch.object(os.path, 'isfile', wraps=os.path.isfile) as asked:
        try:
            with checked_data(runner, 'train'):
                pass
        except (cli.UsageError, OSError) as error:
            told = f'{type(error).__name__}: {error}'
    return asked.call_count, told


def background(rank, empty):
    """A step of Mask R-CNN where the ranks in ``empty`` see no object."""
    import zoo
    from mmdet.testing import demo_mm_inputs
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(zoo.CONFIGS / 'demo/mask_rcnn_swin_nano_spatialk.py')
    init_default_scope('mmdet')
    cfg.model.backbone.update(
        init_cfg=None, arch=dict(embed_dims=32, depths=[1] * 4, num_heads=[2] * 4)
    )
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model).train()
    ddp = MMDistributedDataParallel(
        module=detector, broadcast_buffers=False, find_unused_parameters=False
    )
    steps = []
    for _ in range(2):
        batch = demo_mm_inputs(
            1,
            [(3, 64, 64)],
            num_items=[0 if rank in empty else 2],
            num_classes=10,
            with_mask=True,
        )
        data = detector.data_preprocessor(batch, training=True)
        detector.zero_grad()
        loss, _ = detector.parse_losses(ddp(**data, mode='loss'))
        loss.backward()
        steps.append(loss.item())
    grads = [p.grad for p in detector.parameters()]
    missing = sum(grad is None for grad in grads)
    total = torch.cat([g.flatten() for g in grads if g is not None]).double()
    return dict(losses=steps, missing=missing, norm=total.norm().item())
