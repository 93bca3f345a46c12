"""The file that a backbone starts from, where its config names none.

It follows from the backbone's arch and key. A config that inherits from one of another
key has nothing of that one to replace.
"""

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from mmengine.config import Config

from .. import CONFIGS
from ..arguments import is_list, type_name
from .files import CheckpointError, is_local

#: What must agree for the weights of one backbone to be the other's, with defaults.
IDENTITY = dict(arch=None, key=None, context_broadcasting=False)


def identity(backbone: dict) -> dict:
    """The class of a backbone's config, and its arguments of ``IDENTITY``."""
    settings = {name: backbone.get(name, v) for name, v in IDENTITY.items()}
    settings['key'] = bare(settings['key'])
    return {'type': type_name(backbone), **settings}


def bare(key: object) -> object:
    """A backbone's ``key``, one config or a list, with bare names for types."""
    if isinstance(key, Mapping):
        return {**key, 'type': type_name(key)}
    return [bare(each) for each in key] if is_list(key) else key


@lru_cache(maxsize=256)
def read_shipped(path: Path) -> Config:
    """A shipped config, read once."""
    return Config.fromfile(path, import_custom_modules=False)


def shipped(*patterns: str) -> Iterator[tuple[Path, dict]]:
    """Paths and models of the shipped configs of these patterns."""
    for pattern in patterns:
        for path in sorted(CONFIGS.glob(pattern)):
            yield path, read_shipped(path).model


def first_stages(arch: object, number: int) -> object:
    """A Swin's arch without its later stages; any other arch as it is."""
    if not isinstance(arch, Mapping):
        return arch
    return {k: v[:number] if is_list(v) else v for k, v in arch.items()}


def pretraining_of(backbone: dict) -> Path | None:
    """The config that trains this backbone as a classifier, if one is shipped.

    It may train further stages, whose weights the backbone then has to leave.
    """
    wanted = identity(backbone)
    depths = wanted['arch'].get('depths') if isinstance(wanted['arch'], Mapping) else ()
    for path, model in shipped('pretrain/*.py', 'demo/pretrain_*.py'):
        found = identity(model.backbone)
        if depths:
            found['arch'] = first_stages(found['arch'], len(depths))
        if found == wanted:
            return path
    return None


def written_by(pretraining: Path) -> str:
    """The last checkpoint of a pretraining, relative to where it is started."""
    cfg = read_shipped(pretraining)
    folder = cfg.get('work_dir') or f'work_dirs/{pretraining.stem}'
    return f'{folder}/epoch_{cfg.train_cfg.max_epochs}.pth'


def warm_start_of(model: dict) -> Path | None:
    """The config of this model that starts from stock weights, if one is shipped."""
    for path, other in shipped('*_warmstart.py'):
        theirs = identity(other.backbone)
        theirs['key'] = {k: v for k, v in theirs['key'].items() if k != 'residual'}
        is_same = theirs == identity(model['backbone'])
        if is_same and type_name(other) == type_name(model):
            return path
    return None


def begins_as_stock(key: object) -> bool:
    """Whether a backbone's ``key`` is linear or residual in all layers."""
    return all(
        each is None or (isinstance(each, Mapping) and bool(each.get('residual')))
        for each in (key if is_list(key) else [key])
    )


def file_to_start_from(
    model: dict, checkpoint: str | None = None, stock: str | None = None
) -> str:
    """The file that the backbone of a model starts from.

    Args:
        model (dict): Config with a ``backbone``.
        checkpoint (str, optional): The file, if the config names one.
        stock (str, optional): Weights of the stock network, of which a backbone whose
            keys are linear or residual makes use.

    Returns:
        str: ``checkpoint``, or ``stock``, or what the shipped pretraining of the
        backbone's arch and key writes.

    Raises:
        CheckpointError: If none of these is known.
        FileNotFoundError: If it is a local file that is missing.
    """
    backbone = model['backbone']
    if checkpoint is None and begins_as_stock(backbone.get('key')):
        checkpoint = stock
    elif checkpoint is None and (pretraining := pretraining_of(backbone)):
        checkpoint = written_by(pretraining)
    if checkpoint is None:
        flaw = (
            f'the backbone has no file to start from, and no pretraining of its '
            f'arch={backbone.get("arch")!r} and key={backbone.get("key")!r} is shipped'
        )
        raise CheckpointError(f'{flaw}: {ways_to_start(model)}')
    if is_local(checkpoint) and not os.path.isfile(os.path.expanduser(checkpoint)):
        raise FileNotFoundError(
            f'the backbone starts from {checkpoint!r}, which does not exist: '
            f'{ways_to_start(model)}'
        )
    return checkpoint


def shown(path: Path) -> str:
    """A path as a user writes it: relative to where they stand, if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def launch_line(config: Path) -> str:
    """The command that trains a shipped config with the batch its rate is made for."""
    cfg = read_shipped(config)
    batch = cfg.auto_scale_lr.base_batch_size
    processes = batch // cfg.train_dataloader.batch_size
    tool = shown(CONFIGS.parent / 'tools/dist_train.sh')
    return f'{tool} {shown(config)} {processes}'


def ways_to_start(model: dict) -> str:
    """What to do where weights are missing; first what the config is made for."""
    ways = []
    if pretraining := pretraining_of(model['backbone']):
        ways.append(
            f'pretrain first (`{launch_line(pretraining)}`; with another number of '
            f'processes add `--auto-scale-lr`)'
        )
    if warm_start := warm_start_of(model):
        ways.append(f'start from a stock checkpoint with {shown(warm_start)}')
    option = '--cfg-options model.backbone.init_cfg'
    ways.append(f'name another file with `{option}.checkpoint=FILE`')
    return f'{", ".join(ways)}, or train from scratch with `{option}=None`'
