"""Report of ``tools/demo.py``: table, learning curves, pictures of predictions."""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib
import numpy as np
from mmengine.fileio import load
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from mmmanikey.visualization.scalars import curve, read_scalars

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

COLOURS = plt.get_cmap('tab10').colors  # one per digit
MIN_SCORE = 0.5
#: (what to call it, name in the logs, its unit there)
METRICS = (
    ('bbox_mAP', 'coco/bbox_mAP', 1),
    ('segm_mAP', 'coco/segm_mAP', 1),
    ('mIoU', 'mIoU', 100),
)


def last(rows: Sequence[dict], name: str) -> float:
    return curve(rows, name)[1][-1]


def draw_curves(runs: dict[str, list[dict]], path: Path) -> None:
    """Losses by iteration and metrics by epoch: pretraining left, what follows right.

    Args:
        runs (dict[str, list[dict]]): Scalars of 'pretrain', then of the model, and
            perhaps of 'scratch'.
        path (Path): Picture to write.
    """
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), layout='constrained')
    steps, values = curve(runs['pretrain'], 'loss')
    axes[0, 0].plot(steps, values)
    axes[0, 0].set(title='pretraining loss', xlabel='iteration')
    steps, values = curve(runs['pretrain'], 'accuracy/top1')
    axes[1, 0].plot(steps, np.divide(values, 100), 'o-')
    axes[1, 0].set(title='pretraining top-1 on val', xlabel='epoch', ylim=(0, 1))
    for name, rows in list(runs.items())[1:]:
        start, style = (
            ('from scratch', ':') if name == 'scratch' else ('pretrained', '-')
        )
        axes[0, 1].plot(*curve(rows, 'loss'), style, label=start, color='C0')
        for metric, key, unit in METRICS:
            steps, values = curve(rows, key)
            if values:
                axes[1, 1].plot(
                    steps,
                    np.divide(values, unit),
                    f'o{style}',
                    label=f'{metric}, {start}',
                    color=f'C{1 + METRICS.index((metric, key, unit))}',
                )
    axes[0, 1].set(title='loss of the model', xlabel='iteration', ylim=(0, None))
    axes[1, 1].set(title='on val', xlabel='epoch', ylim=(0, 1))
    axes[0, 1].legend()
    axes[1, 1].legend()
    for ax in axes.flat:
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def read_image(path: str | Path) -> np.ndarray:
    """A PNG as (H, W, 3) bytes."""
    return np.array(Image.open(path).convert('RGB'))


def picture_grid(count: int) -> tuple[plt.Figure, np.ndarray]:
    """Axes (rows, 4) for pairs of ground truth and prediction, two pairs a row."""
    rows = -(-count // 2)
    figure, axes = plt.subplots(
        rows, 4, figsize=(12, 3.2 * rows), layout='constrained', squeeze=False
    )
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def draw_instances(ax: plt.Axes, image: np.ndarray, instances: Sequence[tuple]) -> None:
    """Draw an image with its instances: (mask, box, label, text).

    A box is x, y, w, h; without one the text stands near the middle of the mask.
    """
    painted = image.astype(np.float32) / 255
    for mask, _, label, _ in instances:
        painted[mask] = 0.45 * painted[mask] + 0.55 * np.array(COLOURS[label])
    ax.imshow(painted, interpolation='nearest')
    for mask, box, label, text in instances:
        if box is None:
            places = np.argwhere(mask)  # the one nearest to their middle
            distances = np.square(places - places.mean(axis=0)).sum(axis=1)
            top, left = places[distances.argmin()].tolist()
        else:
            left, top, width, height = box
            corner = (left - 0.5, top - 0.5)
            ax.add_patch(
                plt.Rectangle(
                    corner, width, height, fill=False, ec=COLOURS[label], lw=1.5
                )
            )
        ax.text(
            left,
            top - 1.5,
            text,
            color='white',
            fontsize=8,
            weight='bold',
            clip_on=True,
            bbox=dict(facecolor=COLOURS[label], edgecolor='none', pad=1),
        )
    ax.set_axis_off()


def draw_predictions(data: Path, predictions: Path, path: Path, count: int = 8) -> None:
    """Draw val images twice: with their ground truth, and with the predictions.

    Args:
        data (Path): Folder of the detection data.
        predictions (Path): Pickle that ``tools/test.py --out`` wrote.
        path (Path): Picture to write.
        count (int): Number of images. Defaults to 8.
    """
    with redirect_stdout(None):  # it chats
        coco = COCO(data / 'annotations/val.json')
    samples = load(predictions)[:count]
    figure, axes = picture_grid(len(samples))
    for number, sample in enumerate(samples):
        truth_ax, found_ax = axes[number // 2, 2 * (number % 2) :][:2]
        image = read_image(sample['img_path'])
        truth = [
            (
                coco.annToMask(ann).astype(bool),
                ann['bbox'],
                ann['category_id'] - 1,
                str(ann['category_id'] - 1),
            )
            for ann in coco.imgToAnns[sample['img_id']]
        ]
        draw_instances(truth_ax, image, truth)
        truth_ax.set_title(f'{Path(sample["img_path"]).name}: ground truth', fontsize=9)
        draw_instances(found_ax, image, found_instances(sample['pred_instances']))
        found_ax.set_title('prediction', fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_maps(data: Path, maps: Path, path: Path, count: int = 8) -> None:
    """Draw val images with their true label maps, and with the predicted ones.

    Args:
        data (Path): Folder of the data.
        maps (Path): Folder of the predicted label maps, PNG files with a class per
            pixel, 0 for background.
        path (Path): Picture to write.
        count (int): Number of images. Defaults to 8.
    """
    names = sorted(file.name for file in maps.glob('*.png'))[:count]
    figure, axes = picture_grid(len(names))
    for number, name in enumerate(names):
        pair = axes[number // 2, 2 * (number % 2) :][:2]
        image = read_image(data / 'images/val' / name)
        for ax, folder, title in zip(
            pair, (data / 'labels/val', maps), (f'{name}: ground truth', 'prediction')
        ):
            labels = np.array(Image.open(folder / name))
            found = [
                (labels == label + 1, None, label, str(label))
                for label in range(len(COLOURS))
                if (labels == label + 1).any()
            ]
            draw_instances(ax, image, found)
            ax.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def found_instances(found: dict) -> list[tuple]:
    """Confident predictions in the form that :func:`draw_instances` takes."""
    instances = []
    for box, label, score, mask in zip(
        found['bboxes'].tolist(),
        found['labels'].tolist(),
        found['scores'].tolist(),
        found['masks'],
    ):
        if score >= MIN_SCORE:
            left, top, right, bottom = box
            instances.append(
                (
                    rle.decode(mask).astype(bool),
                    (left, top, right - left, bottom - top),
                    label,
                    f'{label} ({score:.2f})',
                )
            )
    return instances


def read_test(work_dir: Path) -> dict:
    """The metrics of the latest test in ``work_dir``."""
    paths = [
        path for path in work_dir.glob('*/*.json') if path.stem == path.parent.name
    ]
    return json.loads(max(paths).read_text())


def table(
    metrics: dict[str, float], targets: dict[str, float], seconds: dict[str, float]
) -> str:
    """The closing table: results beside their targets, and the time of each stage."""
    lines = ['result        value   to reach']
    for name, value in metrics.items():
        target = targets.get(name)
        verdict = ''
        if target is not None:
            verdict = f'{target:.2f}  {"reached" if value >= target else "NOT reached"}'
        lines.append(f'{name:22}{value:6.3f}   {verdict}'.rstrip())
    lines += ['', *(f'{name:22}{value:6.0f} s' for name, value in seconds.items())]
    lines.append(f'{"together":22}{sum(seconds.values()):6.0f} s')
    return '\n'.join(lines)


def report(
    folders: dict[str, Path],
    data: Path,
    predictions: Path,
    seconds: dict[str, float],
    targets: dict[str, float],
) -> str:
    """Draw both pictures and return the closing text.

    Args:
        folders (dict[str, Path]): Folder of each stage, in order: 'data', 'pretrain',
            the model, perhaps 'scratch', and 'test'.
        data (Path): Folder of the detection data.
        predictions (Path): Pickle that ``tools/test.py --out`` wrote, or a folder of
            label maps.
        seconds (dict[str, float]): Time of each stage.
        targets (dict[str, float]): What each metric should reach.

    Returns:
        str: The table and the paths of the pictures.
    """
    runs = {
        name: read_scalars(folder)
        for name, folder in folders.items()
        if name not in ('data', 'test')
    }
    test = read_test(folders['test'])
    metrics = {'top-1': last(runs['pretrain'], 'accuracy/top1') / 100}
    for name, key, unit in METRICS:
        if key in test:
            metrics[name] = test[key] / unit
            if 'scratch' in runs:
                metrics[f'{name}, from scratch'] = last(runs['scratch'], key) / unit
    work = folders['test'].parent
    pictures = [work / 'predictions.png', work / 'curves.png']
    draw = draw_maps if predictions.is_dir() else draw_predictions
    draw(data, predictions, pictures[0])
    draw_curves(runs, pictures[1])
    paths = '\n'.join(f'  {path.resolve()}' for path in pictures)
    return f'{table(metrics, targets, seconds)}\n\npictures:\n{paths}'
