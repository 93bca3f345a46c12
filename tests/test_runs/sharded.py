"""FSDP against DDP in one process group: trained, saved, resumed and loaded."""

import torch
import zoo
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.registry import MODELS, RUNNERS
from small_run import write_config

DDP = dict(
    runner_type='Runner',
    model_wrapper_cfg=dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    ),
)


def train(config, folder, **options):
    """The Runner after two epochs; rank 0 leaves a checkpoint of each."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    cfg.merge_from_dict(
        dict(launcher='pytorch', work_dir=str(folder), experiment_name=folder.name)
    )
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


def weights(folder, epoch):
    path = folder / f'epoch_{epoch}.pth'
    return torch.load(path, weights_only=False)['state_dict']


def difference(one, other):
    """The largest over all tensors, which must have the same names and shapes."""
    assert [(n, t.shape) for n, t in one.items()] == [
        (n, t.shape) for n, t in other.items()
    ]
    return max((one[n].double() - other[n]).abs().max().item() for n in one)


def compare(folder):
    """What FSDP does differently from DDP and from itself when it is resumed."""
    bases = [zoo.CONFIGS / '_base_/fsdp.py']
    if is_main_process():
        write_config(folder, 'ddp.py')
        write_config(folder, 'fsdp.py', bases)
    barrier()
    train(folder / 'ddp.py', folder / 'ddp', **DDP)
    runner = train(folder / 'fsdp.py', folder / 'fsdp')
    middle = str(folder / 'fsdp/epoch_1.pth')
    train(folder / 'fsdp.py', folder / 'resumed', load_from=middle, resume=True)
    barrier()

    trained = weights(folder / 'fsdp', 2)
    plain = MODELS.build(runner.cfg.model)
    plain.load_state_dict(trained, strict=True)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain.eval()
        sharded = runner.model.eval()
        output = plain(images, mode='tensor') - sharded(images, mode='tensor')
    return dict(
        learned=difference(weights(folder / 'fsdp', 1), trained),
        ddp=difference(weights(folder / 'ddp', 2), trained),
        resumed=difference(weights(folder / 'resumed', 2), trained),
        output=output.abs().max().item(),
        share=sum(p.numel() for p in sharded.parameters())
        / sum(p.numel() for p in plain.parameters()),
    )
