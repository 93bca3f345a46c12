"""What a network sees in validation and test is what it saw in training.

The data of every shipped config go through its pipelines and its preprocessor, from
images of one known colour that are not square.
"""

import copy
import json
import random
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import zoo
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.registry import DATASETS, MODELS

DEMOS = sorted(f'demo/{path.stem}' for path in (zoo.CONFIGS / 'demo').glob('*.py'))
BGR = (30, 120, 220)
#: ImageNet's mean and deviation of red, green and blue.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
NORMALISED = torch.tensor(
    [(value - mean) / std for value, mean, std in zip(BGR[::-1], MEAN, STD)]
)
#: Transforms that change colours, which are to differ.
COLOURS = ('PhotoMetricDistortion', 'RandAugment', 'RandomErasing')
RESIZING = ('Resize', 'RandomResize', 'RandomChoiceResize', 'ResizeEdge')


def paint(root):
    """Give all images below a folder one colour; labels stay."""
    for path in root.rglob('*.[jp][pn]g'):
        if 'annotations' not in path.parts and not path.is_symlink():
            height, width = cv2.imread(str(path)).shape[:2]
            cv2.imwrite(str(path), np.full((height, width, 3), BGR, np.uint8))


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """Tiny data sets in the layouts that the configs expect, by framework."""
    root = tmp_path_factory.mktemp('data')
    zoo.write_coco(root / 'coco')
    zoo.write_imagenet(root / 'imagenet')
    zoo.write_ade(root / 'ade')
    paint(root)
    return dict(
        mmdet=f'{root}/coco', mmpretrain=f'{root}/imagenet', mmseg=f'{root}/ade'
    )


@pytest.fixture(scope='module')
def demo_roots(tmp_path_factory):
    """The same in the layouts and sizes of the demos."""
    root = tmp_path_factory.mktemp('digits')
    digits = [str(i) for i in range(10)]
    zoo.write_coco(root / 'detection', ('train', 'val'), '{}.json', digits)
    for split in ('train', 'val'):
        for i in range(2):
            zoo.image(root / f'detection/{split}/{i}.jpg', (128, 128))
        for digit in digits:
            zoo.image(root / f'classification/{split}/{digit}/a.png', (64, 64))
        zoo.image(root / f'semantic/images/{split}/a.png', (128, 128))
        labels = root / f'semantic/labels/{split}/a.png'
        zoo.image(labels, (128, 128), channels=1, values=11)
    labels = (root / 'semantic/labels').rename(root / 'annotations')
    paint(root)
    labels.rename(root / 'semantic/labels')
    return {
        'mmdet': f'{root}/detection',
        'mmpretrain': f'{root}/classification',
        'mmseg': f'{root}/semantic',
    }


@pytest.fixture(scope='module')
def inputs_of(roots, demo_roots):
    """A function: what the networks of a config get, computed once for equal data."""
    known = {}

    def inputs_of(name):
        cfg = zoo.load(name)
        loaders = [cfg[f'{phase}_dataloader'].dataset for phase in ('train', 'val')]
        content = [preprocessor_of(cfg), *(loader.to_dict() for loader in loaders)]
        content = json.dumps(content, default=str)
        if content not in known:
            root = (demo_roots if name in DEMOS else roots)[cfg.default_scope]
            known[content] = [network_input(cfg, p, root) for p in ('train', 'val')]
        return known[content]

    return inputs_of


class Input(NamedTuple):
    """What a network gets of an image: pixels (C, H, W), and the image's own part."""

    pixels: torch.Tensor
    img_shape: tuple
    as_in_training: torch.Tensor


def preprocessor_of(cfg):
    """Its settings; mmpretrain keeps them at the top."""
    top = {'type': 'mmpretrain.ClsDataPreprocessor', **cfg.get('data_preprocessor', {})}
    return {**top, **cfg.model.get('data_preprocessor', {})}


def network_input(cfg, phase, root):
    """A sample of a phase through pipeline and preprocessor, without colour jitter."""
    outer = dataset = copy.deepcopy(cfg[f'{phase}_dataloader'].dataset)
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = [t for t in dataset.pipeline if t['type'] not in COLOURS]
    is_folder = dataset.type == 'CustomDataset'  # its root names the phase
    dataset.data_root = f'{root}/{phase}' if is_folder else root
    random.seed(0)
    np.random.seed(0)
    sample = DATASETS.build(outer)[0]
    preprocessor = MODELS.build(copy.deepcopy(preprocessor_of(cfg)))
    collate = default_collate if cfg.default_scope == 'mmpretrain' else pseudo_collate
    pixels, again = (
        preprocessor(collate([copy.deepcopy(sample)]), training=training)['inputs'][0]
        for training in (phase == 'train', True)
    )
    return Input(pixels, sample['data_samples'].img_shape[:2], again)


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_colours_and_padding(name, inputs_of):
    """Red, green and blue by ImageNet's mean and deviation; zeros where no image is."""
    for pixels, (height, width), _ in inputs_of(name):
        image = pixels[:, :height, :width]
        assert torch.allclose(image, NORMALISED[:, None, None], atol=0.05)
        padding = pixels.clone()
        padding[:, :height, :width] = 0
        assert not padding.any()


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_sizes(name, inputs_of):
    """A ViT's positions belong to a square, and padding is the same in both phases.

    UperNet is the exception: crops and whole images, as mmseg has it for Swin and ViT.
    """
    cfg = zoo.load(name)
    train, val = inputs_of(name)
    backbone = cfg.model.backbone
    phases = [train, val]
    if cfg.default_scope == 'mmseg':
        assert cfg.model.test_cfg.mode == 'whole'
        assert tuple(train.pixels.shape[1:]) == cfg.model.data_preprocessor['size']
        phases = [train]
    else:
        assert torch.equal(val.pixels, val.as_in_training)
    if 'ViT' in backbone.type:
        side = backbone.get('img_size', 224)
        assert [tuple(phase.pixels.shape[1:]) for phase in phases] == [
            (side, side)
        ] * len(phases)
    if cfg.default_scope == 'mmpretrain':
        assert train.pixels.shape == val.pixels.shape
    divisor = preprocessor_of(cfg).get('pad_size_divisor', 1)
    assert not any(side % divisor for p in phases for side in p.pixels.shape[1:])


def resizings(pipeline):
    """Resizing transforms of a pipeline, the last one of each branch."""
    found = []
    for transform in pipeline:
        if transform['type'] == 'RandomChoice':
            found = [t for branch in transform['transforms'] for t in resizings(branch)]
        elif transform['type'] in (*RESIZING, 'RandomResizedCrop'):
            found = [transform]
    return found


def edges(transform):
    """The shortest and longest (short, long) edges that a transform resizes to."""
    scales = [sorted(scale) for scale in transform.get('scales', [])]
    low, high = transform.get('ratio_range', (1.0, 1.0))
    if 'scale' in transform:
        short, long = sorted(transform['scale'])
        scales += [(short * low, long * low), (short * high, long * high)]
    return scales


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_scales_and_interpolation(name):
    """The scale of validation is one of training's, and so is the interpolation."""
    cfg = zoo.load(name)
    pipelines = []
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        pipelines.append(dataset.pipeline)
    trained, *tested = map(resizings, pipelines)
    assert pipelines[1] == pipelines[2]
    if not trained or not tested[0]:  # the demos' images have the size already
        assert name in DEMOS
        return
    ways = [
        {(t.get('interpolation', 'bilinear'), t.get('backend', 'cv2')) for t in phase}
        for phase in (trained, tested[0])
    ]
    assert ways[0] == ways[1]
    if cfg.default_scope == 'mmpretrain':  # both end in crops of one size
        return
    trained = [scale for transform in trained for scale in edges(transform)]
    for transform in tested[0]:
        for scale in edges(transform):
            for edge, seen in zip(scale, zip(*trained)):
                assert min(seen) <= edge <= max(seen)


def test_predictions_of_a_padded_image_lie_in_it(demo_roots):
    """The padding to the square belongs neither to boxes nor to masks."""
    cfg = zoo.load('demo/mask_rcnn_vit_nano_vanillak')
    cfg.model.backbone.init_cfg = None
    detector = MODELS.build(cfg.model).eval()
    steps = cfg.test_dataloader.dataset.pipeline
    pipeline = Compose([t for t in steps if t['type'] != 'LoadAnnotations'])
    path = f'{demo_roots["mmdet"]}/wide.png'
    zoo.image(Path(path), (160, 60))
    packed = pipeline(dict(img_path=path, img_id=0))
    with torch.no_grad():
        (result,) = detector.test_step(pseudo_collate([packed]))
    assert result.batch_input_shape == (128, 128)
    boxes = result.pred_instances.bboxes
    assert len(boxes)
    assert (boxes.amin(0) >= 0).all()
    assert boxes[:, 2].max() <= 160
    assert boxes[:, 3].max() <= 60
    assert result.pred_instances.masks.shape[1:] == (60, 160)
