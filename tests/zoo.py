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
#: Two lines over configs of mmdet and mmseg, whose recipes these are.
TWO_LINES = [
    'dino_5scale_swin_l_spatialk_warmstart',
    'mask2former_panoptic_swin_t_spatialk_warmstart',
    'mask2former_swin_t_spatialk_warmstart',
    'rtmdet_l_swin_b_spatialk_warmstart',
    'segmentation/mask2former_semantic_swin_t_spatialk_warmstart',
]


def below(folder):
    """Configs in a folder whose recipes are ours."""
    paths = sorted((CONFIGS / folder).glob('*.py'))
    names = [str(path.relative_to(CONFIGS).with_suffix('')) for path in paths]
    return [name for name in names if name not in TWO_LINES]


DETECTION, PRETRAINING, SEGMENTATION = map(below, ('', 'pretrain', 'segmentation'))
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
    model = cfg.model
    backbone = model.backbone
    if 'depths' in backbone:
        backbone.depths = [1] * len(backbone.depths)
    elif 'Swin' in backbone.type:
        sizes = dict(tiny=(96, 3), small=(96, 3), base=(128, 4), large=(192, 6))
        dims, heads = sizes[backbone.arch]
        heads = [heads * 2**i for i in range(4)]
        backbone.arch = dict(embed_dims=dims, depths=[1, 1, 1, 1], num_heads=heads)
    else:
        dims, heads = {'deit-small': (384, 6), 'deit-base': (768, 12)}[backbone.arch]
        backbone.arch = dict(
            embed_dims=dims,
            num_layers=4,
            num_heads=heads,
            feedforward_channels=4 * dims,
        )
        if 'global_attn_indexes' in backbone:
            backbone.global_attn_indexes = (3,)
        if isinstance(backbone.get('out_indices'), (tuple, list)):
            backbone.out_indices = (0, 1, 2, 3)
    fewer_layers(model)
    return cfg


def fewer_layers(model):
    """Three layers in each transformer of the heads, one for each of three levels."""
    names = ('encoder', 'decoder', 'transformer_decoder', 'pixel_decoder')
    heads = (model.get(name) for name in ('panoptic_head', 'decode_head', 'track_head'))
    for part in (model, *(head for head in heads if isinstance(head, dict))):
        for layers in (part.get(name) for name in names):
            layers = (layers or {}).get('encoder', layers) or {}
            if 'num_layers' in layers:
                layers.num_layers = 3


def fewer_regions(model):
    """32 regions to learn from or look at, and 100 queries: the images are small."""
    rcnn = (model.get('train_cfg') or {}).get('rcnn', [])
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        stage.sampler.num = 32
    if 'rpn' in (model.get('test_cfg') or {}):
        model.test_cfg.rpn.max_per_img = 32
    if 'num_queries' in model:
        model.num_queries = 100


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
