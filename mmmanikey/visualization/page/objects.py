"""What a detector of mmdet finds in an image, and the ground truth where there is any.

Of mmdet, which a page of another framework's config does without.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from ...checkpoint import CheckpointError, read_checkpoint
from ...checkpoint.entries import weights_in
from ...engine.build import build_from, is_detector, set_scope
from ...engine.cli import in_one_line
from ...engine.data import dataset_paths, leaf_configs
from ..inputs import Model

MIN_SCORE = 0.3
MOST = 100  # objects of a page


def load_whole(cfg: Config, checkpoint: str, backbone: nn.Module) -> nn.Module:
    """The whole model, with a backbone that has its weights.

    Args:
        cfg (Config): Of a detector or a classifier.
        checkpoint (str): Its file.
        backbone (nn.Module): From :func:`..inputs.load_model`.

    Raises:
        UsageError: If the model cannot be built.
        CheckpointError: If the file lacks weights of neck or heads, or they do not fit.
    """
    model = build_from(cfg, whole=True)
    model.backbone = backbone
    weights = weights_in(read_checkpoint(checkpoint), checkpoint)
    own = {n: x for n, x in weights.items() if not n.startswith('backbone.')}
    try:
        missing = model.load_state_dict(own, strict=False).missing_keys
    except RuntimeError as error:  # shapes
        raise CheckpointError(f'{checkpoint}: {in_one_line(error)}') from error
    missing = [name for name in missing if not name.startswith('backbone.')]
    if missing:
        raise CheckpointError(
            f'{checkpoint} lacks {len(missing)} weights of neck and heads, such as '
            f'{missing[0]}'
        )
    return model.eval()


@torch.no_grad()
def found_objects(
    detector: nn.Module, image: np.ndarray, classes: Sequence[str]
) -> list[dict]:
    """What a detector finds with a score of at least :data:`MIN_SCORE`.

    Args:
        detector (nn.Module): From :func:`load_whole`.
        image (np.ndarray): (H, W, 3), RGB bytes, taken in its own size.
        classes (Sequence[str]): Names of the labels.
    """
    from mmdet.structures import DetDataSample

    size = image.shape[:2]
    sample = DetDataSample(
        metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0)
    )
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)  # BGR
    (result,) = detector.test_step(dict(inputs=[pixels], data_samples=[sample]))
    found = result.pred_instances
    found = found[found.scores >= MIN_SCORE][:MOST]
    masks = found.masks.cpu() if 'masks' in found else [None] * len(found)
    return [
        dict(
            label=label_name(classes, label),
            score=round(score, 3),
            box=[round(side, 1) for side in box],
            outlines=[] if mask is None else outlines(np.asarray(mask)),
        )
        for label, score, box, mask in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), masks
        )
    ]


def label_name(classes: Sequence[str], label: int) -> str:
    """The name of a label, or its number where no names are known."""
    return str(classes[label]) if label < len(classes) else str(label)


def outlines(
    mask: np.ndarray, scale: Sequence[float] = (1.0, 1.0)
) -> list[list[float]]:
    """Borders of a mask, (H, W), each as x, y, x, y and so on.

    Args:
        mask (np.ndarray): True inside.
        scale (Sequence[float]): Of x and y. Defaults to (1, 1).
    """
    found, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1
    )
    # a contour goes through the middles of pixels
    return [
        np.round((each[:, 0] + 0.5) * scale, 1).ravel().tolist()
        for each in found
        if len(each) > 2
    ]


def find_dataset(cfg: Config) -> object | None:
    """The data set of the config's test or validation, where its files are here."""
    for phase in ('test', 'val'):
        dataset = (cfg.get(f'{phase}_dataloader') or {}).get('dataset')
        # one that wraps others takes no pipeline
        if not dataset or [dataset] != list(leaf_configs(dataset)):
            continue
        if all(map(os.path.exists, dataset_paths(dataset))):
            set_scope(cfg)
            return DATASETS.build({**dataset, 'pipeline': []})
    return None


def class_names(dataset: object | None, checkpoint: str) -> Sequence[str]:
    """Names of the classes: of the data set, else those that the checkpoint tells."""
    if dataset is not None:
        return dataset.metainfo.get('classes') or ()
    content = read_checkpoint(checkpoint)
    meta = content.get('meta') if isinstance(content, dict) else None
    told = (meta or {}).get('dataset_meta') or {}
    return told.get('classes') or told.get('CLASSES') or ()


def true_objects(
    dataset: object, path: Path, size: tuple[int, int], classes: Sequence[str]
) -> list[dict] | None:
    """Ground truth of an image, or ``None`` where the data set does not have it.

    Args:
        dataset (object): Of mmdet.
        path (Path): Of the image.
        size (tuple[int, int]): Height and width at which the image is shown.
        classes (Sequence[str]): Names of the labels.
    """
    for number in range(len(dataset)):
        info = dataset.get_data_info(number)
        if os.path.abspath(info['img_path']) == os.path.abspath(path):
            break
    else:
        return None
    scale = np.array([size[1] / info['width'], size[0] / info['height']])
    return [
        dict(
            label=label_name(classes, each['bbox_label']),
            box=np.round(np.array(each['bbox']) * np.tile(scale, 2), 1).tolist(),
            outlines=list(true_outlines(each.get('mask'), scale)),
        )
        for each in info['instances']
        if not each.get('ignore_flag')
    ]


def true_outlines(mask: object, scale: np.ndarray) -> Iterator[list[float]]:
    """Outlines of a mask as COCO has it, polygons or run lengths."""
    from pycocotools import mask as coco

    if isinstance(mask, list):
        for polygon in mask:
            points = np.array(polygon, float).reshape(-1, 2) * scale
            yield np.round(points, 1).ravel().tolist()
    elif isinstance(mask, dict):
        runs = mask
        if isinstance(runs['counts'], list):
            runs = coco.frPyObjects(runs, *runs['size'])
        yield from outlines(coco.decode(runs), scale)


def objects_of(
    model: Model, cfg: Config, checkpoint: str, path: Path, image: np.ndarray
) -> tuple[dict | None, str]:
    """Objects on the page, and why there are none.

    Args:
        model (Model): The backbone.
        cfg (Config): Its config.
        checkpoint (str): Its file.
        path (Path): Of the image.
        image (np.ndarray): As it is shown, (H, W, 3), RGB bytes.

    Returns:
        tuple: ``dict(found=[...], truth=[...] or None)`` or ``None``, and a sentence,
        empty where there is nothing to say.
    """
    if not is_detector(cfg):
        return None, ''
    dataset = find_dataset(cfg)
    classes = class_names(dataset, checkpoint)
    truth = None
    if dataset is not None:
        truth = true_objects(dataset, path, image.shape[:2], classes)
    objects = dict(found=None, truth=truth)
    try:
        detector = load_whole(cfg, checkpoint, model.backbone)
    except CheckpointError as error:  # of a backbone alone
        return objects, f'No detections: {error}.'
    try:
        objects['found'] = found_objects(detector, image, classes)
    except Exception as error:  # some detectors want more than an image, such as a text
        return objects, f'No detections: {in_one_line(error)}.'
    return objects, ''
