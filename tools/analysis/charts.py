"""Draw what each chart of a manifold key responds to.

    python tools/analysis/charts.py configs/mask_rcnn_swin_t_spatialk.py epoch_12.pth \
        --image photo.jpg --out charts.png

draws the norm of every chart on the image's grid, KUA's memberships, how alike the
charts are and their scales, before the charts are fused to the key. Any config of
mmdet, mmpretrain or mmseg with our backbone serves.
"""

import argparse
from pathlib import Path

import torch

from mmmanikey.backbones.structure import attention_layers
from mmmanikey.engine import cli
from mmmanikey.visualization.charts import draw_charts, record_charts
from mmmanikey.visualization.inputs import (
    find_images,
    load_model,
    read_image,
    running,
)
from mmmanikey.visualization.output import save_figure

FORMATS = ('.png', '.pdf', '.svg')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint', nargs='?', help='checkpoint; without one the weights are random'
    )
    parser.add_argument('--image', required=True, metavar='FILE', help='image to show')
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='picture: .png, .pdf or .svg'
    )
    parser.add_argument(
        '--layer',
        type=int,
        default=-1,
        help='number of the attention layer, from 0, or from the end; default -1',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if Path(args.out).suffix not in FORMATS:
        raise cli.UsageError(
            f'--out must end in {", ".join(FORMATS)}, got {args.out!r}'
        )
    if Path(args.image).is_dir():
        raise cli.UsageError(f'--image takes one file, and {args.image!r} is a folder')
    (path,) = find_images(args.image)
    image = read_image(path)
    torch.manual_seed(0)  # random weights are the same on every run
    model = load_model(args.config, args.checkpoint)
    with running(model):
        response = record_charts(model.backbone, model.input(image), args.layer)
    number = args.layer % len(attention_layers(model.backbone))
    title = f'{model.name}, {response.strategy} of layer {number}, {path.name}'
    save_figure(draw_charts(response, image, title), Path(args.out))
    print(args.out)


if __name__ == '__main__':
    cli.tool(main)
