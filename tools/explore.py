"""Write a page that shows what the attention of a model does with an image.

    python tools/explore.py CONFIG CHECKPOINT photo.jpg --out page.html \
        --against OTHER_CONFIG OTHER_CHECKPOINT

One HTML file that opens from disk, with no other file and no network: point at a token
and see its attention in every head, with the borders of its window; two models side by
side and their difference; the charts of a manifold key and the keys as colours; rollout
over all layers; the boxes and masks of a detector. Attention is stored as 8-bit
numbers, in 255 steps of the largest of each row. Any config of mmdet, mmpretrain or
mmseg with our backbone, a stock Swin or a ViT of mmpretrain or mmseg serves.
"""

import argparse
import sys
from pathlib import Path

from mmmanikey.engine import cli
from mmmanikey.visualization.inputs import find_images, read_image
from mmmanikey.visualization.page.explore import Source, write_page


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--against',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a model to compare to, such as the one with the linear key; it stands '
        'first',
    )
    parser.add_argument(
        '--layers',
        nargs='+',
        type=int,
        metavar='N',
        help='numbers of the attention layers, from 0, or from the end; default all',
    )
    parser.add_argument(
        '--size',
        type=int,
        metavar='PX',
        help='resize the shorter side of the image; default as it is',
    )
    parser.add_argument(
        '--out',
        default='page.html',
        type=Path,
        help='file to write; default %(default)s',
    )
    return parser.parse_args()


def show_progress(text: str) -> None:
    """One line, which the next one replaces where it is a terminal's."""
    end = '\r' if sys.stderr.isatty() else '\n'
    print(f'{text:60}', end=end, file=sys.stderr, flush=True)


def main() -> None:
    args = parse_args()
    if args.size is not None and args.size < 1:
        raise cli.UsageError(f'--size must be at least 1, got {args.size}')
    if args.out.suffix.lower() not in ('.html', '.htm'):
        raise cli.UsageError(f'--out must end in .html, got {str(args.out)!r}')
    if args.out.is_dir():
        raise cli.UsageError(f'--out must be a file, and {str(args.out)!r} is a folder')
    if Path(args.image).is_dir():
        raise cli.UsageError(f'a page is of one image, and {args.image!r} is a folder')
    (path,) = find_images(args.image)
    image = read_image(path, args.size)
    sources = [Source(*args.against)] if args.against else []
    sources.append(Source(args.config, args.checkpoint))
    notes = write_page(sources, path, image, args.out, args.layers, show_progress)
    for note in notes:
        print(f'note: {note}', file=sys.stderr)
    megabytes = args.out.stat().st_size / 1e6
    print(f'{args.out} ({megabytes:.1f} MB)')


if __name__ == '__main__':
    cli.tool(main)
