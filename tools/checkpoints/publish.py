"""Publish a checkpoint: plain tensors, no optimiser, its hash in the name.

    python tools/checkpoints/publish.py work_dirs/x/epoch_12.pth published/x

writes published/x-1234abcd.pth, where 1234abcd begins the file's SHA-256. It loads
with torch.load(weights_only=True) and keeps the config, the classes, the epoch and the
versions. published/x.safetensors writes that format, in which the same is kept as JSON.
With mmengine's EMAHook a checkpoint's weights are the averaged ones, and these are
published.
"""

import argparse
import os

from torch import Tensor

from mmmanikey.checkpoint import atomic_save, publishable, read_checkpoint
from mmmanikey.checkpoint.entries import entries_of, main_entry
from mmmanikey.engine import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint file, URL or zoo name')
    parser.add_argument(
        'out', help='file to write, without the hash; .pth may be left out'
    )
    parser.add_argument(
        '--config', help="config to store, in place of the checkpoint's own"
    )
    return parser.parse_args()


def with_suffix(out: str) -> str:
    return out if out.endswith(('.pth', '.safetensors')) else f'{out}.pth'


def main() -> None:
    args = parse_args()
    if os.path.isdir(args.out) or not os.path.basename(args.out):
        raise cli.UsageError(f'{args.out!r} is a folder: name a file in it')
    cfg = cli.read_config(args.config).pretty_text if args.config else None
    cli.check_checkpoint(args.checkpoint)
    content = read_checkpoint(args.checkpoint)
    published = publishable(content, args.checkpoint, cfg)
    try:
        path = atomic_save(published, with_suffix(args.out), add_hash=True)
    except (OSError, ValueError) as error:
        raise cli.UsageError(f'cannot write {args.out!r}: {error}') from error
    print(f'{path}: {len(published["state_dict"])} tensors')
    main = main_entry(entries_of(content, args.checkpoint)).name
    left_out = [
        str(name)
        for name, value in content.items()
        if not isinstance(value, Tensor) and name not in ('meta', main.split('.')[0])
    ]
    if left_out:
        print(f'left out: {", ".join(left_out)}')


if __name__ == '__main__':
    cli.tool(main)
