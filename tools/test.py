"""Test a checkpoint of an mmdet, mmpretrain or mmseg config.

python tools/test.py CONFIG CHECKPOINT [--out FILE.pkl] [--show-dir DIR] ...
"""

import argparse
import os

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmmanikey.arguments import type_name
from mmmanikey.checkpoint.files import refusing_unsafe
from mmmanikey.engine import cli
from mmmanikey.engine.build import is_detector
from mmmanikey.engine.running import build_runner, checked_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a checkpoint.')
    cli.add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions')
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', help='write pictures of the predictions')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds per picture with --show'
    )
    return cli.parse(parser)


def set_pictures(cfg: Config, show: bool, show_dir: str | None, wait: float) -> None:
    """Turn on the framework's visualization hook for every tested image."""
    hook = (cfg.get('default_hooks') or {}).get('visualization') or {}
    # mmdet puts a relative folder below its work dir, anew for every batch.
    folder = os.path.abspath(show_dir) if show_dir else None
    name = type_name(hook)
    if name == 'DetVisualizationHook':
        hook.update(draw=True, test_out_dir=folder)
    elif name == 'SegVisualizationHook':
        hook.update(draw=True)
        if folder:
            cfg.visualizer.save_dir = folder
    elif name == 'VisualizationHook':
        hook.update(enable=True, interval=1, out_dir=folder)
    else:
        raise cli.UsageError(
            '--show and --show-dir need a visualization hook in default_hooks, '
            "e.g. visualization=dict(type='DetVisualizationHook')"
        )
    hook.update(show=show, wait_time=wait)


def dump_predictions(runner: Runner, path: str) -> None:
    """Also write the predictions to ``path``; mmdet's masks are run-length encoded."""
    encodes = is_detector(runner.cfg)
    metric = METRICS.get('mmdet.DumpDetResults') if encodes else DumpResults
    runner.test_evaluator.metrics.append(metric(out_file_path=path))


def main() -> None:
    args = parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise cli.UsageError(f'--out takes a .pkl file, got {args.out!r}')
    cfg = cli.load_config(args)
    cli.check_checkpoint(args.checkpoint, folder=bool(cfg.get('strategy')))
    cli.check_data(cfg, 'test')
    cfg.load_from, cfg.resume = args.checkpoint, False
    cli.drop_pretrained(cfg)
    if args.show or args.show_dir:
        set_pictures(cfg, args.show, args.show_dir, args.wait_time)
    runner = build_runner(cfg)
    with checked_data(runner, 'test'), refusing_unsafe(args.checkpoint):
        if args.out:
            dump_predictions(runner, args.out)
        runner.test()


if __name__ == '__main__':
    cli.tool(main)
