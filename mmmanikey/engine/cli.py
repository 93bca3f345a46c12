"""Command line of ``tools/train.py`` and ``tools/test.py``, for all three frameworks.

mmengine's Runner does the work. Here is what comes before it: reading the config,
checking that the files it names exist and fit. A user's mistake ends in one sentence,
before training where it can be seen by then.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from .. import CONFIGS
from ..checkpoint.files import CheckpointError, is_local
from ..checkpoint.pretraining import file_to_start_from
from .data import dataset_paths
from .levels import check_levels


class UsageError(Exception):
    """A mistake on the command line or in a config, told in one sentence."""


class LocalError(UsageError):
    """One that the other processes of a training may not have met."""


def tool(main: Callable[[], None]) -> None:
    """Run a tool; mistakes in its use become a line on stderr and exit status 2.

    So do checkpoints that cannot be read or do not fit.
    """
    try:
        main()
    except (UsageError, CheckpointError) as error:
        if os.environ.get('RANK', '0') == '0' or isinstance(error, LocalError):
            print(f'error: {error}', file=sys.stderr)  # noqa: T201
        sys.exit(2)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override entries of the config, e.g. optim_wrapper.optimizer.lr=1e-4; '
        'lists as key="[a,b]", without spaces',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    # Older launchers pass the rank as an argument instead of by the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; malformed ``--cfg-options`` are usage errors as well."""
    try:
        args = parser.parse_args()
    except (ValueError, AssertionError) as error:
        raise UsageError(f'--cfg-options takes KEY=VALUE pairs: {error}') from error
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments of :func:`add_common_arguments`.

    Raises:
        UsageError: If the config is missing, cannot be read, or its neck or heads do
            not fit its backbone.
    """
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    name = Path(args.config).stem
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'./work_dirs/{name}'
    if cfg.get('default_scope') == 'mmpretrain':
        add_mmpretrain_loader_defaults(cfg)
    try:
        check_levels(cfg.get('model') or {})
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    return cfg


def read_config(path: str, options: dict | None = None) -> Config:
    """Read a config and apply ``options``.

    Raises:
        UsageError: If it is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        names = {p.name: p for p in [*glob_configs(), *path.parent.glob('*.py')]}
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise UsageError(f'config {str(path)!r} {what}{did_you_mean(path.name, names)}')
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except Exception as error:  # a config is a Python program and can fail in any way
        raise UsageError(
            f'cannot read config {str(path)!r}: {type(error).__name__}: '
            f'{in_one_line(error)}'
        ) from error
    return cfg


def in_one_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 characters."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:297]}...'


def glob_configs() -> Iterator[Path]:
    """Our configs, and those where the user stands."""
    for root in (CONFIGS, Path('configs')):
        yield from (path for path in root.rglob('*.py') if '_base_' not in path.parts)


def did_you_mean(name: str, candidates: dict[str, Path]) -> str:
    """A question with up to three close names, or nothing."""
    close = difflib.get_close_matches(name, candidates, n=3)
    if not close:
        return ''
    return (
        '; did you mean ' + ' or '.join(str(candidates[match]) for match in close) + '?'
    )


def add_mmpretrain_loader_defaults(cfg: Config) -> None:
    """What mmpretrain's own tools add to every data loader."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if loader := cfg.get(name):
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)


def check_checkpoint(path: str, folder: bool = False) -> None:
    """Raise UsageError if a local checkpoint is missing or of the wrong kind.

    Args:
        path (str): Path or URL.
        folder (bool): Whether it may be a folder, to which every process of a sharded
            training wrote its part. Defaults to False.
    """
    if Path(path).is_dir() and not folder:
        raise UsageError(
            f'checkpoint {path!r} is a folder, as FSDP and DeepSpeed write it: take '
            'the config of that training, or name a file'
        )
    if is_local(path) and not Path(path).exists():
        beside = Path(path).parent
        found = [*beside.glob('*.pth'), *beside.glob('*.safetensors')]
        names = {p.name: p for p in found}
        raise UsageError(
            f'checkpoint {path!r} does not exist{did_you_mean(Path(path).name, names)}'
        )


def check_data(cfg: Config, *phases: str) -> None:
    """Check the data files of the phases ('train', 'val', 'test').

    A config may say how to get its data in a top-level ``data_command``.

    Raises:
        UsageError: If a file or folder is missing, or all data of the first phase.
    """
    if not cfg.get(f'{phases[0]}_dataloader'):
        raise UsageError(f'the config has no {phases[0]}_dataloader')
    for phase in phases:
        loader = cfg.get(f'{phase}_dataloader') or {}
        evaluators = cfg.get(f'{phase}_evaluator') or []
        evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
        places = {
            f'{phase}_dataloader.dataset': dataset_paths(loader.get('dataset', {}))
        }
        places[f'{phase}_evaluator'] = [
            metric['ann_file']
            for metric in evaluators
            if metric.get('ann_file') and is_local(metric['ann_file'])
        ]
        for place, paths in places.items():
            for path in paths:
                if not os.path.exists(path):
                    command = cfg.get('data_command')
                    remedy = f'make it with `{command}`' if command else 'put it there'
                    raise UsageError(
                        f'{path!r}, named by {place}, does not exist: {remedy} or '
                        f'change the path in the config'
                    )


def check_pretrained(cfg: Config) -> None:
    """Check the local checkpoints that the backbone starts from.

    Raises:
        UsageError: If a checkpoint is missing, or the config names none and none is
            known for its arch and key.
    """
    model = cfg.get('model') or {}
    init_cfgs = (model.get('backbone') or {}).get('init_cfg') or []
    for init_cfg in [init_cfgs] if isinstance(init_cfgs, dict) else init_cfgs:
        checkpoint, stock = init_cfg.get('checkpoint'), init_cfg.get('stock')
        if checkpoint or 'PretrainedBackbone' in str(init_cfg.get('type')):
            try:
                file_to_start_from(model, checkpoint, stock)
            except (FileNotFoundError, CheckpointError) as error:
                raise UsageError(str(error)) from error


def drop_pretrained(cfg: Config) -> None:
    """Build the backbone without its pretrained weights; a checkpoint replaces them."""
    model = cfg.get('model') or {}
    if 'pretrained' in model:  # models of mmseg hand it to their backbone
        model['pretrained'] = None
    drop_init_cfg(model.get('backbone'))


def drop_init_cfg(backbone: dict | None) -> None:
    """Drop what a backbone starts from, also one within ``with_keys``."""
    while isinstance(backbone, dict):
        for name in ('init_cfg', 'pretrained'):
            if name in backbone:  # not every class has the arguments
                backbone[name] = None
        backbone = backbone.get('backbone')
