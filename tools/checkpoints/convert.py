"""Convert a checkpoint of Swin or ViT between projects.

    python tools/checkpoints/convert.py SRC DST                 # into our backbones
    python tools/checkpoints/convert.py SRC DST --to timm       # plain state dict
    python tools/checkpoints/convert.py SRC DST --to mmdet      # for mmdet's own Swin

SRC may come from mmpretrain, mmdet, mmseg, timm, transformers, torchvision, DeiT, MAE,
DINO, iBOT, ViTDet, SimMIM or Swin's own repository; entry, prefix and layout are found
by the names in it. `mmmanikey.PretrainedBackbone` reads all of these directly, so a
backbone of ours needs no conversion to load them. SRC and DST may end in .safetensors.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from mmmanikey.checkpoint.files import CheckpointError, atomic_save, read_checkpoint
from mmmanikey.checkpoint.find import find_backbone
from mmmanikey.checkpoint.layouts import from_ours
from mmmanikey.engine import cli
from mmmanikey.grids import told_grids, with_grids
from mmmanikey.version import __version__

#: Examples of what was left out, for each reason.
SHOWN = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', metavar='SRC', help='checkpoint file or URL')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write')
    parser.add_argument(
        '--to',
        choices=['ours', 'timm', 'mmdet'],
        default='ours',
        help="layout to write: 'ours' and 'mmdet' as a checkpoint whose weights are "
        "named backbone.*, 'timm' as the state dict that load_state_dict takes "
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--ema', action='store_true', help='take averaged weights, as of timm or DINO'
    )
    parser.add_argument(
        '--force', action='store_true', help='overwrite DST if it exists'
    )
    return parser.parse_args()


def report_dropped(dropped: Mapping[str, str]) -> None:
    """Print what was left out, by reason."""
    for reason in dict.fromkeys(dropped.values()):
        names = [name for name, why in dropped.items() if why == reason]
        more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
        print(f'left out: {", ".join(names[:SHOWN])}{more} ({reason})')


def main() -> None:
    args = parse_args()
    if not args.dst.parent.is_dir():
        raise cli.UsageError(f'the folder {args.dst.parent} does not exist')
    if args.dst.is_dir():
        raise cli.UsageError(f'{args.dst} is a folder, DST names a file')
    if args.dst.exists() and not args.force:
        raise cli.UsageError(f'{args.dst} exists; --force overwrites it')
    try:
        content = read_checkpoint(args.src)
    except FileNotFoundError as error:
        raise cli.UsageError(str(error)) from error
    found = find_backbone(content, args.src, ema=args.ema)
    print(f'found: {found.layout} layout, {found.count} tensors in {found.place()}')
    for other in found.others:
        print(f'also there: {other}')
    report_dropped(dict.fromkeys(found.beside, 'not in the backbone'))
    report_dropped(found.dropped)
    weights, grids = found.weights, told_grids(found.weights)
    try:
        if args.to != 'ours':
            weights, dropped = from_ours(weights, args.to)
            report_dropped(dropped)
    except ValueError as error:
        raise CheckpointError(f'{args.src} cannot be converted: {error}') from error
    content = with_grids(weights, grids)
    if args.to != 'timm':
        content = dict(
            state_dict=with_grids(weights, grids, 'backbone.'),
            meta=dict(
                source=Path(args.src).name,
                source_layout=found.layout,
                mmmanikey_version=__version__,
            ),
        )
    try:
        atomic_save(content, args.dst)
    except (OSError, RuntimeError, ValueError) as error:  # by torch and safetensors
        raise cli.UsageError(f'cannot write {args.dst}: {error}') from error
    print(f'wrote {args.dst}: {args.to} layout, {len(weights)} tensors')


if __name__ == '__main__':
    cli.tool(main)
