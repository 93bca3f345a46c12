"""Convert a checkpoint of Swin or ViT between projects.

    python tools/checkpoints/convert.py SRC DST                 # into our backbones
    python tools/checkpoints/convert.py SRC DST --to timm       # plain state dict
    python tools/checkpoints/convert.py SRC DST --to mmdet      # for mmdet's own Swin

SRC may come from mmpretrain, mmdet, mmseg, timm, DeiT, MAE, ViTDet or Swin's own
repository; its layout is found by the names in it. `mmmanikey.PretrainedBackbone` reads
all of these directly, so a backbone of ours needs no conversion to load them.
"""

import sys

# This folder goes to the end of the path: its inspect.py would hide Python's own.
sys.path.append(sys.path.pop(0))

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mmmanikey.checkpoint.files import CheckpointError, atomic_save
from mmmanikey.checkpoint.layouts import Layout, find_layout, from_ours
from mmmanikey.checkpoint.pretrained import PREFIXES, read_state_dict
from mmmanikey.engine import cli
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
        '--force', action='store_true', help='overwrite DST if it exists'
    )
    return parser.parse_args()


def find_backbone(
    state_dict: Mapping[str, Tensor],
) -> tuple[str, Layout, dict[str, Tensor]]:
    """Prefix, layout and weights of the backbone in a checkpoint.

    Raises:
        CheckpointError: If there is none that we know.
    """
    for prefix in PREFIXES:
        weights = {
            name.removeprefix(prefix): value
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }
        if layout := find_layout(weights):
            return prefix, layout, weights
    raise CheckpointError(
        f'no Swin or ViT of a known layout in the file; the first of its '
        f'{len(state_dict)} names is {next(iter(state_dict))}'
    )


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
        state_dict = read_state_dict(args.src)
    except FileNotFoundError as error:
        raise cli.UsageError(str(error)) from error
    prefix, layout, backbone = find_backbone(state_dict)
    where = f' under {prefix!r}' if prefix else ''
    print(f'found: {layout.name} layout, {len(backbone)} tensors{where}')
    report_dropped(
        {
            name: 'not in the backbone'
            for name in state_dict
            if not name.startswith(prefix)
        }
    )
    try:
        weights, dropped = layout.to_ours(backbone)
        report_dropped(dropped)
        if args.to != 'ours':
            weights, dropped = from_ours(weights, args.to)
            report_dropped(dropped)
    except ValueError as error:
        raise CheckpointError(f'{args.src} cannot be converted: {error}') from error
    content = weights
    if args.to != 'timm':
        content = dict(
            state_dict={f'backbone.{name}': value for name, value in weights.items()},
            meta=dict(
                source=Path(args.src).name,
                source_layout=layout.name,
                mmmanikey_version=__version__,
            ),
        )
    try:
        atomic_save(content, args.dst)
    except (OSError, RuntimeError) as error:  # torch raises either
        raise cli.UsageError(f'cannot write {args.dst}: {error}') from error
    print(f'wrote {args.dst}: {args.to} layout, {len(weights)} tensors')


if __name__ == '__main__':
    cli.tool(main)
