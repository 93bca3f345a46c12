"""Write a checkpoint for manifold keys from a stock one, without pretraining.

    python tools/checkpoints/upgrade.py swin_tiny.pth \\
        configs/mask_rcnn_swin_t_vanillak.py work_dirs/swin_t_vanillak.pth
    python tools/checkpoints/upgrade.py swin_tiny.pth \\
        configs/mask_rcnn_swin_t_spatialk.py work_dirs/swin_t_spatialk.pth \\
        --images data/coco/val2017

VanillaK and KUA take over the stock key exactly. SimpleK and SpatialK are fitted to it
by least squares on unlabelled images, and the tool prints how closely. A key with
residual=True needs no upgrade: its backbone loads stock checkpoints as they are.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import track_iter_progress
from torch import Tensor, nn

from mmmanikey.arguments import is_list
from mmmanikey.checkpoint import PretrainedBackbone
from mmmanikey.checkpoint.files import atomic_save
from mmmanikey.engine import cli
from mmmanikey.engine.build import build_from
from mmmanikey.keys import with_residual
from mmmanikey.visualization.inputs import (
    IMAGE_SUFFIXES,
    Model,
    preprocessor_of,
    read_image,
)
from mmmanikey.warmstart import (
    BlockReport,
    needs_images,
    output_change,
    split_batches,
    upgrade_backbone,
)

BATCH_SIZE = 4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='stock checkpoint: file, URL or zoo name')
    parser.add_argument('config', help='config whose backbone has the manifold key')
    parser.add_argument('dst', help='checkpoint to write')
    parser.add_argument(
        '--images',
        metavar='FOLDER',
        help='unlabelled images, also in folders below; SimpleK and SpatialK need them',
    )
    parser.add_argument(
        '--num-images',
        type=positive,
        default=64,
        help='images to use, a quarter of them only to measure the errors; more fit '
        'more closely where the last feature map has few tokens (default: 64)',
    )
    parser.add_argument(
        '--size',
        type=positive,
        default=224,
        help='side that images are resized to, in pixels (default: 224)',
    )
    parser.add_argument('--seed', type=int, default=0, help='(default: 0)')
    parser.add_argument(
        '--ema', action='store_true', help='take averaged weights, as of timm or DINO'
    )
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    return parser.parse_args()


def positive(text: str) -> int:
    """Parse a positive int."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be 1 or more, got {value}')
    return value


def load(checkpoint: str, stock: nn.Module, ema: bool) -> None:
    """Load the stock checkpoint into the backbone and log what it brought."""
    try:
        PretrainedBackbone(checkpoint, ema=ema)(stock)
    except (OSError, ValueError) as error:
        raise cli.UsageError(str(error).partition('\n')[0]) from error


def read_images(folder: str, num_images: int, size: int, model: Model) -> list[Tensor]:
    """Images of a folder, resized, as a model takes them, in batches.

    They are taken at even distances from the sorted list.
    """
    if not os.path.isdir(folder):
        raise cli.UsageError(f'--images: folder {folder!r} does not exist')
    found = Path(folder).rglob('*')
    paths = sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise cli.UsageError(
            f'--images: no {", ".join(IMAGE_SUFFIXES)} below {folder!r}'
        )
    chosen = np.linspace(0, len(paths) - 1, min(num_images, len(paths))).round()
    images = (mmcv.imresize(read_image(paths[int(i)]), (size, size)) for i in chosen)
    return list(torch.cat([*map(model.input, images)]).split(BATCH_SIZE))


def table(reports: list[BlockReport]) -> Iterator[str]:
    """Lines of the table of all layers."""
    width = max(len(report.layer) for report in reports)
    yield f'{"layer":{width}}  {"key":8}  {"":6}  relative error'
    for layer, strategy, is_exact, error in reports:
        kind = 'exact' if is_exact else 'fitted'
        yield f'{layer:{width}}  {strategy:8}  {kind:6}  {error:.2e}'


def check_destination(dst: str, force: bool) -> None:
    """Raise UsageError if the file may not be written."""
    if os.path.isdir(dst):
        raise cli.UsageError(f'{dst!r} is a folder; name a file to write')
    if os.path.exists(dst) and not force:
        raise cli.UsageError(f'{dst!r} exists; --force overwrites it')


def check_backbone(args: argparse.Namespace, cfg: Config) -> None:
    """Raise UsageError if there is nothing to upgrade to."""
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    keys = backbone.get('key')
    keys = keys if is_list(keys) else [keys]
    residual = [key.get('residual') for key in keys if isinstance(key, dict)]
    if not residual:
        raise cli.UsageError(f'the backbone of {args.config!r} has no manifold key')
    if all(residual):
        raise cli.UsageError(
            f'the backbone of {args.config!r} has keys with residual=True and loads '
            f'{args.src!r} as it is'
        )
    if any(residual):
        raise cli.UsageError(
            f'the backbone of {args.config!r} mixes keys with residual=True and '
            f'others; name a config in which no key has it'
        )


def main() -> None:
    args = parse_args()
    check_destination(args.dst, args.force)
    cfg = cli.read_config(args.config)
    check_backbone(args, cfg)
    key = cfg.model.backbone.key
    stock, upgraded = (
        build_from(cfg, key=with_residual(key, residual)).eval()
        for residual in (True, False)
    )
    try:
        if needs_images(stock) and not args.images:
            raise cli.UsageError(
                'SimpleK and SpatialK are fitted by least squares: name a folder of '
                'unlabelled images with --images'
            )
        load(args.src, stock, args.ema)
        images = []
        if args.images:
            model = Model(args.config, stock, preprocessor_of(cfg))
            images = read_images(args.images, args.num_images, args.size, model)
        track = partial(track_iter_progress, file=sys.stderr)
        weights, reports = upgrade_backbone(stock, images, args.seed, track)
        upgraded.load_state_dict(weights)
        print(*table(reports), sep='\n')
        if images:
            batches, source = split_batches(images)[1], f'images of {args.images}'
        else:
            torch.manual_seed(args.seed)
            channels = stock.patch_embed.projection.in_channels
            batches = [torch.randn(2, channels, args.size, args.size)]
            source = 'of random noise'
        change = output_change(stock, upgraded, batches)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    count = sum(map(len, batches))
    print(f"relative change of the network's output, {count} {source}: {change:.2e}")

    content = dict(
        state_dict=upgraded.state_dict(prefix='backbone.'),
        meta=dict(upgraded_from=args.src, config=args.config, seed=args.seed),
    )
    try:
        atomic_save(content, args.dst)
    except (OSError, RuntimeError, ValueError) as error:  # by torch and safetensors
        raise cli.UsageError(f'cannot write {args.dst!r}: {error}') from error
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    cli.tool(main)
