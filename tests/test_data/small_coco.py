"""The demo's detector, made smaller, and its data: two images in COCO's format."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLASSES = ('bolt', 'nut')
ANNOTATIONS = 'annotations/train.json'

CONFIG = f"""
_base_ = '{ROOT}/configs/demo/mask_rcnn_swin_nano_spatialk.py'
classes = {CLASSES}
model = dict(
    backbone=dict(
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
        init_cfg=None,
    ),
    neck=dict(in_channels=[8, 16, 32, 64]),
    roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2)),
)
dataset = dict(data_root='data/', metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
"""


def box(number, image, bbox, **more):
    x, y, w, h = bbox
    entry = dict(id=number, image_id=image, category_id=1, iscrowd=0, bbox=[*bbox])
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {**entry, 'area': w * h, 'segmentation': [polygon], **more}


def edit(data, change, split='train'):
    path = data / f'annotations/{split}.json'
    content = json.loads(path.read_text())
    content = change(content) or content
    path.write_text(json.dumps(content))


def assert_one_sentence(result, *parts):
    status, lines = result
    assert status == 2
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0], lines[0]
    assert not list(Path('out').glob('*.pth'))  # nothing was trained


def drop(part, name):
    def change(content):
        content[part][0].pop(name)

    return change
