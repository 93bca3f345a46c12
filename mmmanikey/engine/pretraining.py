"""Which shipped configs write, or do without, the weights that a backbone starts from.

It follows from the backbone's arch and key: no config has to name another one, and a
config that inherits from one of another key names nothing of that one.
"""

from functools import lru_cache
from pathlib import Path

from mmengine.config import Config

from .. import CONFIGS
from ..keys import with_residual

#: What must agree for the weights of one backbone to be the other's, with defaults.
IDENTITY = dict(arch=None, key=None, context_broadcasting=False)


def identity(backbone: dict) -> dict:
    """The class of a backbone's config, and its arguments of ``IDENTITY``."""
    name = str(backbone.get('type')).rpartition('.')[2]
    return {'type': name, **{k: backbone.get(k, v) for k, v in IDENTITY.items()}}


@lru_cache(maxsize=8)
def read_all(*patterns: str) -> dict[Path, Config]:
    """The shipped configs whose paths below ``configs/`` match."""
    return {
        path: Config.fromfile(path, import_custom_modules=False)
        for pattern in patterns
        for path in sorted(CONFIGS.glob(pattern))
    }


def pretraining_of(backbone: dict) -> Path | None:
    """The config that trains this backbone as a classifier, if one is shipped."""
    for path, cfg in read_all('pretrain/*.py', 'demo/pretrain_*.py').items():
        if identity(cfg.model.backbone) == identity(backbone):
            return path
    return None


def warm_start_of(model: dict) -> Path | None:
    """The config of this model that starts from stock weights, if one is shipped."""
    wanted = identity(model['backbone'])
    wanted['key'] = with_residual(wanted['key'], True)
    for path, cfg in read_all('*_warmstart.py').items():
        same = cfg.model.type == model.get('type')
        if same and identity(cfg.model.backbone) == wanted:
            return path
    return None


def shown(path: Path) -> str:
    """A path as a user writes it: relative to where they stand, if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def launch_line(config: Path) -> str:
    """The command that trains a shipped config with the batch its rate is made for.

    Args:
        config (Path): With ``auto_scale_lr.base_batch_size``, as all shipped ones.
    """
    cfg = Config.fromfile(config, import_custom_modules=False)
    batch = cfg.auto_scale_lr.base_batch_size
    processes = batch // cfg.train_dataloader.batch_size
    tool = shown(CONFIGS.parent / 'tools/dist_train.sh')
    return f'{tool} {shown(config)} {processes}'


def ways_to_start(cfg: Config) -> list[str]:
    """What to do where the weights that a backbone starts from are missing.

    Args:
        cfg (Config): With a ``model.backbone``.

    Returns:
        list[str]: Parts of a sentence, the first the one that the config is made for.
    """
    ways = []
    if pretraining := pretraining_of(cfg.model.backbone):
        ways.append(
            f'pretrain first (`{launch_line(pretraining)}`; with another number of '
            f'processes add `--auto-scale-lr`)'
        )
    if warm_start := warm_start_of(cfg.model):
        ways.append(f'start from a stock checkpoint with {shown(warm_start)}')
    option = '--cfg-options model.backbone.init_cfg'
    ways.append(f'name another file with `{option}.checkpoint=FILE`')
    ways.append(f'train from scratch with `{option}=None`')
    return ways
