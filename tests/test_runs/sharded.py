"""FSDP against DDP in one process group: trained, saved, resumed and loaded."""

from pathlib import Path
from unittest.mock import patch

import torch
import zoo
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.optim import build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import MODELS, RUNNERS
from small_run import write_config
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

from mmmanikey.checkpoint import CheckpointError
from mmmanikey.engine.resume import last_checkpoint

LAYOUTS = dict(
    full='full',
    local='local',
    sharded=dict(
        state_dict_type='SHARDED_STATE_DICT',
        state_dict_config=dict(type='ShardedStateDictConfig'),
        optim_state_dict_config=dict(type='ShardedOptimStateDictConfig'),
        _delete_=True,
    ),
)
#: The scale grows in the third iteration; there are two in an epoch. The second group
#: of parameters makes the wrapper keep a learning rate of its own.
AMP = {
    'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.dtype': 'bfloat16',
    'optim_wrapper.loss_scale': dict(device='cpu', init_scale=8.0, growth_interval=3),
    'optim_wrapper.optimizer.weight_decay': 0.01,
    'optim_wrapper.paramwise_cfg': dict(
        flat_decay_mult=0.0,
        custom_keys={
            'backbone': dict(lr_mult=0.5),
            'blocks.0.norm1': dict(decay_mult=0.5),  # in a unit
        },
    ),
    'param_scheduler': [dict(type='ExponentialLR', gamma=0.5, end=9)],
}
HOOK = {
    'default_hooks.checkpoint.type': 'mmmanikey.WholeCheckpointHook',
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}
DDP = dict(
    runner_type='Runner',
    model_wrapper_cfg=dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    ),
)

FAMILIES = dict(
    swin={},
    vit={
        'model.backbone': dict(
            type='mmmanikey.ManifoldKeyViT',
            arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
            img_size=16,
            patch_size=4,
            key=dict(type='VanillaK', num_charts=2),
            _delete_=True,
        ),
        'model.neck': None,
        'model.head.in_channels': 8,
        'optim_wrapper.optimizer.lr': 0.3,
    },
)


def train(config, folder, **options):
    """The Runner after two epochs; rank 0 leaves a checkpoint of each."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    cfg.merge_from_dict(
        dict(launcher='pytorch', work_dir=str(folder), experiment_name=folder.name)
    )
    # MMEngine's wrapper for mixed precision refuses to be built without a GPU
    with patch.object(amp_optimizer_wrapper, 'is_cuda_available', lambda: True):
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


def interrupt(folder):
    """Two epochs at once and, in each layout of checkpoints, in two trainings."""
    options = AMP | HOOK
    whole = train(folder / 'fsdp.py', folder / 'whole', **options)
    expected = state(whole)
    plain, cfg = MODELS.build(whole.cfg.model), whole.cfg.optim_wrapper
    cfg = dict(optimizer=cfg.optimizer, paramwise_cfg=cfg.paramwise_cfg)
    found = dict(
        settings=settings(whole.model, whole.optim_wrapper),
        expected_settings=settings(plain, build_optim_wrapper(plain, cfg)),
    )
    for name, state_dict_cfg in LAYOUTS.items():
        work_dir = folder / name
        options['strategy.state_dict_cfg'] = state_dict_cfg
        train(folder / 'fsdp.py', work_dir, **options | {'train_cfg.max_epochs': 1})
        last = last_checkpoint(work_dir)
        resumed = train(
            folder / 'fsdp.py', work_dir, load_from=last, resume=True, **options
        )
        barrier()
        found[name] = dict(
            last=str(Path(last).relative_to(folder)),
            left=sorted(
                str(path.relative_to(work_dir))
                for path in work_dir.rglob('*')
                if '.pth' in path.name or path.suffix in ('.tmp', '.old')
            ),
            weights=difference(expected['weights'], state(resumed)['weights']),
            wrappers=(expected['wrapper'], state(resumed)['wrapper']),
            refused=refusal(resumed, work_dir, name),
        )
    return found


def settings(model, optim_wrapper):
    """Learning rate at the start and weight decay of every parameter, by its name."""
    unit = '_fsdp_wrapped_module.'
    names = {id(p): n.replace(unit, '') for n, p in model.named_parameters()}
    groups = optim_wrapper.optimizer.param_groups
    return {
        names[id(parameter)]: (g.get('initial_lr', g['lr']), g['weight_decay'])
        for g in groups
        for parameter in g['params']
    }


def state(runner):
    """All weights, and what the wrapper of the optimiser keeps besides its state."""
    with FullyShardedDataParallel.state_dict_type(
        runner.model, StateDictType.FULL_STATE_DICT
    ):
        full = runner.model.state_dict()
    wrapper = runner.optim_wrapper.state_dict()
    del wrapper['state'], wrapper['param_groups']
    wrapper['base_param_settings'] = wrapper['base_param_settings']['lr']
    return dict(weights={n: w.clone() for n, w in full.items()}, wrapper=wrapper)


def refusal(runner, work_dir, name):
    """What the strategy says to a checkpoint that it cannot read."""
    if name == 'full':
        path = work_dir / 'other.pth'
        path.mkdir(exist_ok=True)
    else:
        path = work_dir / 'epoch_2.pth'
        if is_main_process():
            (path / 'rank2.pth').touch()
    barrier()
    try:
        runner.strategy.load_checkpoint(str(path))
    except CheckpointError as error:
        return str(error)


def compare(folder):
    """What FSDP does, for Swin and ViT; interruptions for Swin alone."""
    bases = [zoo.CONFIGS / '_base_/fsdp.py']
    if is_main_process():
        write_config(folder, 'ddp.py')
        write_config(folder, 'fsdp.py', bases)
    barrier()
    families = {name: compare_family(folder, name) for name in FAMILIES}
    return dict(interrupted=interrupt(folder), families=families)


def compare_family(folder, name):
    """What FSDP does differently from DDP and from itself when it is resumed."""
    options = FAMILIES[name]
    whole, again = folder / f'{name}-fsdp', folder / f'{name}-resumed'
    train(folder / 'ddp.py', folder / f'{name}-ddp', **DDP, **options)
    runner = train(folder / 'fsdp.py', whole, **options)
    middle = str(whole / 'epoch_1.pth')
    train(folder / 'fsdp.py', again, load_from=middle, resume=True, **options)
    barrier()

    trained = weights(whole, 2)
    plain = MODELS.build(runner.cfg.model)
    plain.load_state_dict(trained, strict=True)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain.eval()
        sharded = runner.model.eval()
        output = plain(images, mode='tensor') - sharded(images, mode='tensor')
    units = FullyShardedDataParallel.fsdp_modules(runner.model)
    return dict(
        units=sorted(type(unit.module).__name__ for unit in units),
        learned=difference(weights(whole, 1), trained),
        ddp=difference(weights(folder / f'{name}-ddp', 2), trained),
        resumed=difference(weights(again, 2), trained),
        output=output.abs().max().item(),
        share=sum(p.numel() for p in sharded.parameters())
        / sum(p.numel() for p in plain.parameters()),
    )
