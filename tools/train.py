"""Train the model of an mmdet, mmpretrain or mmseg config.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] ...
"""

import argparse

from mmengine.config import Config
from mmengine.device import get_device

from mmmanikey.arguments import type_name
from mmmanikey.checkpoint.safe_tensors import is_safetensors
from mmmanikey.engine import cli
from mmmanikey.engine.resume import last_checkpoint, resume_exactly
from mmmanikey.engine.running import build_runner, checked_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model.')
    cli.add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the last one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    return cli.parse(parser)


def set_resume(cfg: Config, resume: str | None) -> None:
    """Set what to resume from; then the pretrained backbone is not needed.

    Where there is no last checkpoint yet, the config's own ``load_from`` stays.
    """
    if resume == 'auto' or cfg.get('resume') and not (resume or cfg.get('load_from')):
        last = last_checkpoint(cfg.work_dir)
        cfg.resume, cfg.load_from = last is not None, last or cfg.get('load_from')
    elif resume:
        cfg.resume, cfg.load_from = True, resume
    if cfg.get('load_from'):
        cli.check_checkpoint(cfg.load_from, folder=bool(cfg.get('strategy')))
    if cfg.get('resume'):
        if is_safetensors(cfg.load_from):
            raise cli.UsageError(
                f'{cfg.load_from!r} holds no state of a training to resume; to start '
                f'from its weights give --cfg-options load_from={cfg.load_from}'
            )
        cli.drop_pretrained(cfg)


def set_amp(cfg: Config) -> None:
    """Turn on mixed precision."""
    if get_device() == 'cpu':
        raise cli.UsageError('--amp needs a GPU and there is none: leave it out')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def check_amp(cfg: Config) -> None:
    """Refuse a config with mixed precision where mmengine does."""
    wrapper = cfg.get('optim_wrapper') or {}
    if type_name(wrapper) == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise cli.UsageError(
            'AmpOptimWrapper needs a GPU and there is none: train without it by '
            '`--cfg-options optim_wrapper.type=OptimWrapper`'
        )


def set_auto_scale_lr(cfg: Config) -> None:
    """Turn on scaling of the learning rate."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise cli.UsageError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config'
        )
    cfg.auto_scale_lr.enable = True


def main() -> None:
    args = parse_args()
    cfg = cli.load_config(args)
    set_resume(cfg, args.resume)
    resume_exactly(cfg)
    if args.amp:
        set_amp(cfg)
    check_amp(cfg)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    cli.check_pretrained(cfg)
    cli.check_data(cfg, 'train', 'val')
    runner = build_runner(cfg)
    with checked_data(runner, 'train', 'val'):
        runner.train()


if __name__ == '__main__':
    cli.tool(main)
