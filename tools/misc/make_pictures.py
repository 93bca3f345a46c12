"""Pictures of the README and the documentation, into docs/images.

`make pictures` trains what they show and then runs this: the demo's detector, and
classifiers of single digits that differ in the key alone.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools'))

from analysis.demo_report import draw_predictions  # noqa: E402

from mmmanikey.backbones.structure import attention_layers, stride_of  # noqa: E402
from mmmanikey.engine import cli  # noqa: E402
from mmmanikey.visualization.attention import record_attention  # noqa: E402
from mmmanikey.visualization.attention_figure import (  # noqa: E402
    ModelMaps,
    draw_attention,
)
from mmmanikey.visualization.charts import draw_charts, record_charts  # noqa: E402
from mmmanikey.visualization.inputs import Model, load_model, read_image  # noqa: E402
from mmmanikey.visualization.output import save_figure  # noqa: E402
from mmmanikey.visualization.page.explore import Source, write_page  # noqa: E402

KEYS = ('SpatialK', 'VanillaK', 'SimpleK', 'KUA')
LAYER = 3  # the last of the second stage: 8 x 8 tokens of a digit, four heads
PRETRAIN = 'pretrain_swin_nano_spatialk.py'


def trained(work: Path, name: str) -> Source:
    """The config and the last checkpoint of a training.

    Raises:
        UsageError: If it was not trained.
    """
    marker = work / 'last_checkpoint'
    if not marker.is_file() or not (work / name).is_file():
        raise cli.UsageError(f'{str(work)!r} holds no training: run `make pictures`')
    return Source(str(work / name), str(work / Path(marker.read_text().strip()).name))


@torch.no_grad()
def draw_side_by_side(models: Sequence[Model], path: Path, out: Path) -> None:
    """Attention of the token in the middle, a row for each model."""
    image = read_image(path)
    rows = []
    for model in models:
        maps = record_attention(model.backbone, model.input(image), LAYER, 'center')[0]
        stride = stride_of(model.backbone, attention_layers(model.backbone)[LAYER])
        middle = tuple((side // 2 + 0.5) * stride for side in maps.shape[1:])
        rows.append(ModelMaps(model.name, maps, stride, middle))
    title = f'Attention of the token at the cross, layer {LAYER}'
    save_figure(draw_attention(image, rows, title), out)


def draw_key(model: Model, path: Path, out: Path) -> None:
    """Charts of a key."""
    image = read_image(path)
    response = record_charts(model.backbone, model.input(image), LAYER)
    figure = draw_charts(response, image, f'Charts of {response.strategy}')
    save_figure(figure, out, dpi=80)


def photograph(page: Path, out: Path) -> None:
    """A picture of the page, as a browser shows it.

    Raises:
        UsageError: If there is no Chromium.
    """
    browser = shutil.which('chromium') or shutil.which('chromium-browser')
    if browser is None:
        raise cli.UsageError(
            'no Chromium: install it, as by `apt-get install chromium`'
        )
    subprocess.run(
        [browser, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars']
        + ['--window-size=1200,1000', '--virtual-time-budget=20000']
        + [f'--screenshot={out.resolve()}', page.resolve().as_uri()],
        check=True,
        capture_output=True,
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--work', type=Path, default='work_dirs', help='folder of the trainings'
    )
    parser.add_argument(
        '--data', type=Path, default='data/digits', help='folder of the digits'
    )
    parser.add_argument(
        '--out', type=Path, default=ROOT / 'docs/images', help='folder to write'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    detector = trained(args.work / 'demo/detector', 'mask_rcnn_swin_nano_spatialk.py')
    sources = {
        key: trained(args.work / f'pictures/{key}', PRETRAIN)
        for key in ('linear', *KEYS[1:])
    }
    sources['SpatialK'] = trained(args.work / 'demo/pretrain', PRETRAIN)
    digit = min(args.data.glob('classification/val/*/*.png'))
    scene = min(args.data.glob('detection/val/*.png'))
    predictions = args.out / 'demo_predictions.png'
    draw_predictions(
        args.data / 'detection', args.work / 'demo/test/predictions.pkl', predictions, 4
    )
    models = {
        key: load_model(*source, f'{key} key' if key == 'linear' else key)
        for key, source in sources.items()
    }
    pair = [models['linear'], models['SpatialK']]
    draw_side_by_side(pair, digit, args.out / 'attention.png')
    for key in KEYS:
        draw_key(models[key], digit, args.out / f'charts_{key.lower()}.png')
    page = args.out / 'explore.html'
    write_page([detector], scene, read_image(scene), page)
    with tempfile.TemporaryDirectory() as folder:
        both = Path(folder) / 'both.html'
        compared = [sources['linear'], sources['SpatialK']]
        # it opens at the last of its layers
        write_page(compared, digit, read_image(digit), both, [LAYER])
        photograph(both, args.out / 'explore.png')
    print(f'pictures in {args.out}')


if __name__ == '__main__':
    cli.tool(main)
