"""Draw what the heads of an attention layer look at.

    python tools/analysis/attention_maps.py --images photo.jpg --out maps \
        --model configs/mask_rcnn_vit_b.py baseline.pth "linear key" \
        --model configs/mask_rcnn_vit_b_vanillak.py manifold.pth VanillaK

writes one picture for each image (models in rows, heads in columns, as heat over the
image and alone) and maps/index.html, which shows them all. Any config of mmdet,
mmpretrain or mmseg with our backbone, a stock Swin or ViT of theirs serves. Swin's
windows are stitched together and their shift is undone.
"""

import argparse
import html
from itertools import chain, count
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from mmmanikey.backbones.structure import attention_layers, stride_of
from mmmanikey.engine import cli
from mmmanikey.visualization.attention import (
    attention_map,
    default_query,
    layer_windows,
    softmax_weights,
)
from mmmanikey.visualization.attention_figure import ModelMaps, draw_attention
from mmmanikey.visualization.inputs import (
    Model,
    find_images,
    load_model,
    read_image,
    running,
)
from mmmanikey.visualization.output import save_figure, write_text
from mmmanikey.visualization.rollout import carried_back, record_steps, start_row
from mmmanikey.visualization.token_windows import TokenWindows

#: What a map shows, by the query.
SHOWN = {
    'cls': 'attention of the class token',
    'center': 'attention of the token at the cross',
    'mean': 'attention each token receives, mean over queries',
}
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Attention maps</title>
<style>body {{ font-family: sans-serif }} img {{ max-width: 100% }}</style>
<h1>Attention maps</h1>
<ul>
{models}
</ul>
{pictures}
</html>
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--model',
        nargs='+',
        action='append',
        required=True,
        metavar=('CONFIG', 'CHECKPOINT [NAME]'),
        help='config, checkpoint and what to call them; without a checkpoint the '
        'weights are random. Repeat it for a row each, the baseline first',
    )
    parser.add_argument('--images', required=True, help='image, or a folder of images')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder to write')
    parser.add_argument(
        '--layer',
        type=int,
        help='number of the attention layer, from 0, or from the end; default -1',
    )
    parser.add_argument(
        '--rollout',
        action='store_true',
        help='follow the attention through all layers, down to the first grid, instead '
        'of drawing one layer; --query is then on the last grid',
    )
    parser.add_argument(
        '--query',
        default=None,
        type=parse_query,
        metavar='cls|center|mean|Y,X',
        help='whose attention: of the class token, of the token in the middle, the '
        'mean over all, or of the token at Y,X, parts of the height and the width such '
        'as 0.25,0.5; default cls where there is a class token, else mean',
    )
    parser.add_argument(
        '--size',
        type=int,
        metavar='PX',
        help='resize the shorter side of the images; default as they are',
    )
    return parser.parse_args()


def parse_query(text: str) -> str | tuple[float, float]:
    """A name, or the parts of height and width."""
    if text in SHOWN:
        return text
    try:
        y, x = map(float, text.split(','))
    except ValueError:
        y = x = -1.0
    if not (0 <= y < 1 and 0 <= x < 1):
        raise argparse.ArgumentTypeError(
            f'must be cls, center, mean, or Y,X from 0 to 1, got {text!r}'
        )
    return y, x


def query_token(
    query: str | tuple[float, float] | None,
    windows: TokenWindows,
    size: tuple[int, int],
    stride: int,
) -> str | tuple[int, int]:
    """The query as :func:`attention_map` takes it; 'center' is the image's middle."""
    if query is None:
        return default_query(windows)
    if query == 'center':
        query = (0.5, 0.5)
    if isinstance(query, str):
        return query
    return tuple(int(part * side / stride) for part, side in zip(query, size))


@torch.no_grad()
def map_image(model: Model, image: np.ndarray, args: argparse.Namespace) -> ModelMaps:
    """The maps of one model."""
    backbone, x = model.backbone, model.input(image)
    number = -1 if args.layer is None else args.layer
    with running(model):
        if args.rollout:
            steps = record_steps(backbone, x)
            windows = steps[-1].windows
        else:
            layer, windows = layer_windows(backbone, x, number)
        layers = attention_layers(backbone)
        stride = stride_of(backbone, layers[number])  # of the query's grid
        query = query_token(args.query, windows, image.shape[:2], stride)
        if args.rollout:
            maps = carried_back(start_row(windows, query), steps)
        else:
            maps = attention_map(softmax_weights(layer, windows), windows, query)[0]
    place, shown = None, query
    if isinstance(query, tuple):
        place, shown = tuple((side + 0.5) * stride for side in query), 'center'
    if args.rollout:
        title = f'{model.name}, rollout over {len(layers)} layers\n{SHOWN[shown]}'
        return ModelMaps(title, maps, stride_of(backbone, layers[0]), place)
    title = f'{model.name}, layer {number % len(layers)} of 0..{len(layers) - 1}'
    return ModelMaps(f'{title}\n{SHOWN[shown]}', maps, stride, place)


def picture_names(images: list[Path]) -> list[str]:
    """A name of its own for each image's picture: of a.jpg and a.png, a and a_2."""
    names = []
    for image in images:
        candidates = chain([image.stem], (f'{image.stem}_{i}' for i in count(2)))
        taken = {name.lower() for name in names}  # some disks do not know the case
        names.append(next(name for name in candidates if name.lower() not in taken))
    return [f'{name}.png' for name in names]


def write_index(folder: Path, models: list[Model], images: dict[str, Path]) -> Path:
    """Write the page that shows all pictures, in the order of the images."""
    models = '\n'.join(f'<li>{html.escape(model.name)}</li>' for model in models)
    pictures = '\n'.join(
        f'<h2>{html.escape(image.name)}</h2>\n'
        f'<img src="{quote(name)}" alt="{html.escape(image.name)}" loading="lazy">'
        for name, image in images.items()
    )
    path = folder / 'index.html'
    write_text(path, PAGE.format(models=models, pictures=pictures))
    return path


def main() -> None:
    args = parse_args()
    if any(len(model) > 3 for model in args.model):
        raise cli.UsageError('--model takes CONFIG [CHECKPOINT [NAME]]')
    if args.rollout and args.layer is not None:
        raise cli.UsageError('--rollout goes through all layers: leave out --layer')
    if args.size is not None and args.size < 1:
        raise cli.UsageError(f'--size must be at least 1, got {args.size}')
    paths = find_images(args.images)
    torch.manual_seed(0)  # random weights are the same on every run
    models = [load_model(*model) for model in args.model]
    folder = Path(args.out)
    images = dict(zip(picture_names(paths), paths))
    for name, path in images.items():
        image = read_image(path, args.size)
        maps = [map_image(model, image, args) for model in models]
        save_figure(draw_attention(image, maps, path.name), folder / name)
        print(folder / name)
    print(write_index(folder, models, images))


if __name__ == '__main__':
    cli.tool(main)
