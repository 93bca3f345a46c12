"""The shipped configs, and tiny folders in the layouts of their data sets."""

import copy
import functools
import json
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
DETECTION = sorted(path.stem for path in CONFIGS.glob('*.py'))
PRETRAINING = sorted(f'pretrain/{p.stem}' for p in (CONFIGS / 'pretrain').glob('*.py'))
SEGMENTATION = sorted(
    f'segmentation/{p.stem}' for p in (CONFIGS / 'segmentation').glob('*.py')
)
ALL = [*DETECTION, *PRETRAINING, *SEGMENTATION]


@functools.cache
def read(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name):
    """A copy of the config of that name, in its framework's scope."""
    cfg = copy.deepcopy(read(name))
    init_default_scope(cfg.default_scope)
    return cfg


def shallow(cfg):
    """Fewer layers; everything else as it is."""
    backbone = cfg.model.backbone
    if 'Swin' in backbone.type:
        arch = dict(tiny=(96, 3), small=(96, 3), base=(128, 4))[backbone.arch]
        heads = [arch[1] * 2**i for i in range(4)]
        options = dict(
            arch=dict(embed_dims=arch[0], depths=[1, 1, 1, 1], num_heads=heads)
        )
    else:
        dims, heads = {'deit-small': (384, 6), 'deit-base': (768, 12)}[backbone.arch]
        options = dict(
            arch=dict(
                embed_dims=dims,
                num_layers=4,
                num_heads=heads,
                feedforward_channels=4 * dims,
            )
        )
        if 'global_attn_indexes' in backbone:
            options['global_attn_indexes'] = (3,)
        if isinstance(backbone.get('out_indices'), (tuple, list)):
            options['out_indices'] = (0, 1, 2, 3)
    backbone.update(options)
    return cfg


def image(path, size=(80, 64), channels=3, values=255):
    """Write a random image of (width, height), with that many values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, values, (size[1], size[0], channels))
    cv2.imwrite(str(path), noise.astype(np.uint8))


def write_coco(
    root,
    splits=('train2017', 'val2017'),
    annotations='instances_{}.json',
    names=None,
):
    """Two images with an object each, for training and validation; COCO's classes."""
    for split in splits:
        for i in range(2):
            image(root / split / f'{i}.jpg')
        boxes = [[10.0, 8.0, 40.0, 40.0], [20.0, 10.0, 36.0, 30.0]]
        content = dict(
            images=[
                dict(id=i, file_name=f'{i}.jpg', width=80, height=64) for i in range(2)
            ],
            annotations=[
                dict(
                    id=i + 1,
                    image_id=i,
                    category_id=1,
                    iscrowd=0,
                    bbox=[x, y, w, h],
                    area=w * h,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
                for i, (x, y, w, h) in enumerate(boxes)
            ],
            categories=[
                dict(id=i + 1, name=name)
                for i, name in enumerate(names or coco_names())
            ],
        )
        path = root / 'annotations' / annotations.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def coco_names():
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO['classes']


def write_imagenet(root):
    """One image for each of 1000 classes, linked, for training and validation."""
    image(root / 'one.jpg')
    for split in ('train', 'val'):
        for i in range(1000):
            folder = root / split / f'n{i:08d}'
            folder.mkdir(parents=True)
            (folder / 'one.jpg').symlink_to(root / 'one.jpg')


def write_ade(root):
    """An image with labels from 0 to 150, for training and validation."""
    for split in ('training', 'validation'):
        image(root / 'images' / split / 'a.jpg')
        image(root / 'annotations' / split / 'a.png', channels=1, values=151)
