"""What is wrong with data: training goes on as docs/faq.md says, or ends in a sentence.

The demo's detector, made smaller, on two images in COCO's format.
"""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import zoo
from loading import load_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as rle

from mmmanikey.engine import cli
from mmmanikey.engine.coco import flaw_in_coco

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


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with a config and good data, which a test then spoils."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    for split in ('train', 'val'):
        zoo.write_coco(
            tmp_path / 'data', splits=[split], annotations='{}.json', names=CLASSES
        )
    (tmp_path / 'config.py').write_text(CONFIG)
    return tmp_path / 'data'


@pytest.fixture
def train(data, monkeypatch, capsys):
    """Train for an epoch; the status and what was told on stderr."""

    def run(*options, name='train', checkpoint=()):
        tool = load_tool(ROOT / f'tools/{name}.py')
        args = [name, 'config.py', *checkpoint, '--work-dir=out']
        args += ['--cfg-options', *options] if options else []
        monkeypatch.setattr(sys, 'argv', args)
        status = 0
        try:
            cli.tool(tool.main)
        except SystemExit as end:
            status = end.code
        lines = capsys.readouterr().err.splitlines()
        return status, [line for line in lines if line.startswith('error: ')]

    return run


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


def odd_content(mask):
    """Seven images with all that training passes over, or reads in another form."""
    compressed = rle.encode(np.asfortranarray(mask))
    compressed['counts'] = compressed['counts'].decode()
    runs, last, count = [], 0, 0
    for value in mask.T.flatten():
        if value != last:
            runs.append(count)
            last, count = value, 0
        count += 1
    whole = [10.0, 8.0, 40.0, 40.0]
    return [
        box(1, 0, whole),
        box(2, 0, [5.0, 5.0, 0.0, 10.0]),  # no area
        box(3, 0, [200.0, 5.0, 30.0, 30.0]),  # outside
        box(4, 0, [60.0, 40.0, 60.0, 60.0]),  # partly outside
        box(5, 0, whole, iscrowd=1, segmentation=compressed),
        box(6, 1, [5.0, 5.0, 0.0, 0.0]),  # nothing is left of this image
        box(7, 2, whole, segmentation=compressed),
        box(8, 2, whole, segmentation=dict(size=[64, 80], counts=[*runs, count])),
        box(9, 2, whole, segmentation=[[1.0, 2.0, 3.0]]),  # no polygon
        box(10, 77, whole),  # of no image
        box(11, 2, whole, category_id=9),  # of no category
    ]


@pytest.fixture
def odd(data):
    mask = np.zeros((64, 80), np.uint8)
    mask[8:48, 10:50] = 1

    def change(content):
        image = content['images'][0]
        content['images'] = [
            {**image, 'id': i, 'file_name': f'{i % 2}.jpg'} for i in range(4)
        ]
        content['annotations'] = odd_content(mask)

    edit(data, change)
    return mask


def test_training_goes_on_over_odd_annotations(odd, train):
    assert train() == (0, [])
    assert Path('out/epoch_1.pth').is_file()


def test_what_is_left_of_odd_annotations(odd):
    from mmdet.registry import DATASETS

    cfg = Config.fromfile('config.py')
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = {s['data_samples'].img_id: s['data_samples'] for s in dataset}
    assert sorted(samples) == [0, 1, 2]  # an image without annotations is left out
    kept, ignored = samples[0].gt_instances, samples[0].ignored_instances
    assert kept.bboxes.tensor.tolist() == [[10, 8, 50, 48], [60, 40, 120, 100]]
    assert len(ignored) == 1  # the crowd
    assert len(samples[1].gt_instances) == 0
    rles = samples[2].gt_instances.masks.masks
    assert len(rles) == 2
    for decoded in rles:
        assert np.array_equal(decoded, odd)
    assert len(samples[2].ignored_instances) == 1  # the broken polygon


def test_no_ground_truth_at_all_trains_where_the_config_asks(data, train):
    edit(data, lambda content: content.update(annotations=content['annotations'][:1]))
    option = 'train_dataloader.dataset.filter_cfg.filter_empty_gt=False'
    assert train(option, 'train_dataloader.batch_size=1') == (0, [])


def drop(part, name):
    def change(content):
        content[part][0].pop(name)

    return change


def set_first(**values):
    def change(content):
        content['annotations'][0].update(values)

    return change


#: (change of train.json, what the sentence names besides the file)
FLAWS = {
    'no such classes': (
        lambda content: content.update(categories=[dict(id=1, name='cog')]),
        ["name 'bolt'", "categories are ['cog']"],
    ),
    'one class misspelt': (
        lambda content: content['categories'][1].update(name='knut'),
        ["name 'nut'", "categories are ['bolt', 'knut']"],
    ),
    'classes in another order': (
        lambda content: content['categories'].reverse(),
        ["order of its categories: ['nut', 'bolt']"],
    ),
    'two categories of one name': (
        lambda content: content['categories'].append(dict(id=3, name='bolt')),
        ["2 categories of the name 'bolt'", 'join them'],
    ),
    'images below filter_cfg': (
        lambda content: [i.update(width=20) for i in content['images']] and None,
        ["filter_cfg {'filter_empty_gt': True, 'min_size': 32} leaves none of the 2"]
        + ['the shorter side of the largest has 20 pixels', 'min_size to that or less'],
    ),
    'images with objects below filter_cfg': (
        lambda content: content.update(
            annotations=content['annotations'][:1],
            images=[{**content['images'][0], 'width': 20}, *content['images'][1:]],
        ),
        ['leaves none of the 2 images', 'filter_cfg.filter_empty_gt=False'],
    ),
    'no images': (lambda content: content.update(images=[]), ['lists no images']),
    'no objects': (lambda content: content.update(annotations=[]), ['no object']),
    'annotations of no image': (
        lambda content: [a.update(image_id=9) for a in content['annotations']] and None,
        ['no object of the classes'],
    ),
    'no list': (lambda content: [1], ["not in COCO's format: it is no dict"]),
    'no categories': (
        lambda content: content.pop('categories') and None,
        ['no list of categories'],
    ),
    'no size': (drop('images', 'width'), ['has no width in']),
    'no box': (drop('annotations', 'bbox'), ['has no bbox in']),
    'no area': (drop('annotations', 'area'), ['has no area in']),
    'no mask': (drop('annotations', 'segmentation'), ['1', 'has no segmentation']),
    'short box': (set_first(bbox=[1, 2, 3]), ['four numbers, got [1, 2, 3]']),
    'text for a box': (set_first(bbox='1 2 3 4'), ["four numbers, got '1 2 3 4'"]),
    'repeated id': (set_first(id=2), ['several annotations of the id 2']),
    'mask of another size': (
        set_first(segmentation=dict(size=[8, 8], counts=[0, 64])),
        ['mask of [8, 8] on an image of [64, 80]'],
    ),
}


@pytest.mark.parametrize('name', FLAWS)
def test_flaws_of_an_annotation_file(data, train, name):
    change, parts = FLAWS[name]
    edit(data, change)
    assert_one_sentence(train(), f'data/{ANNOTATIONS}', *parts)


def test_no_json(data, train):
    (data / ANNOTATIONS).write_text('{"images": [')
    assert_one_sentence(train(), f"'data/{ANNOTATIONS}' is no JSON file")


def test_classes_of_the_validation_data(data, train):
    edit(data, lambda content: content['categories'][0].update(name='x'), 'val')
    assert_one_sentence(train(), 'data/annotations/val.json', "name 'bolt'")


def test_one_class_without_a_comma(data, train):
    Path('config.py').write_text(CONFIG.replace("('bolt', 'nut')", "('bolt')"))
    assert_one_sentence(train(), "must be a list, got the text 'bolt'")


def test_a_head_for_fewer_classes(data, train):
    result = train('model.roi_head.bbox_head.num_classes=1')
    assert_one_sentence(
        result, 'model.roi_head.bbox_head.num_classes is 1', '2 classes'
    )


def test_a_mask_head_that_knows_no_classes(data, train):
    assert train('model.roi_head.mask_head.num_classes=1') == (0, [])


def test_a_class_named_twice(data, train):
    Path('config.py').write_text(CONFIG.replace("('bolt', 'nut')", "('nut', 'nut')"))
    assert_one_sentence(train(), "'nut' twice", f"'data/{ANNOTATIONS}'")


def test_two_categories_of_a_name_that_is_no_class(data, train):
    more = [dict(id=i, name='cog') for i in (3, 4)]
    edit(data, lambda content: content['categories'].extend(more))
    assert train() == (0, [])


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_missing_image(data, train, split):
    (data / split / '1.jpg').unlink()
    result = train()
    parts = f"'data/{split}/1.jpg'", f"'data/annotations/{split}.json' names"
    assert_one_sentence(result, *parts, 'does not exist')


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('content', ['text', 'cut', 'empty'])
def test_a_damaged_image(data, train, content, workers):
    path = data / 'train/1.jpg'
    whole = path.read_bytes()
    path.write_bytes(
        dict(text=b'hello', cut=whole[: len(whole) // 2], empty=b'')[content]
    )
    result = train(f'train_dataloader.num_workers={workers}')
    assert_one_sentence(result, "cannot read 'data/train/1.jpg'")


def test_a_missing_image_is_no_flaw_where_another_takes_its_place(data, train):
    (data / 'train/1.jpg').unlink()
    steps = "[dict(type='LoadImageFromFile', ignore_empty=True), *_base_.{}[1:]]"
    replaced = steps.format('train_dataloader.dataset.pipeline')
    with Path('config.py').open('a') as file:
        file.write(f'train_dataloader["dataset"] = dict(dataset, pipeline={replaced})')
    assert train() == (0, [])


#: By package: a dataset that reads with it, and the step that loads annotations.
READERS = dict(
    panopticapi=('CocoPanopticDataset', 'LoadPanopticAnnotations'),
    lvis=('LVISV1Dataset', 'LoadAnnotations'),
)


@pytest.mark.parametrize('package', READERS)
def test_data_whose_reader_is_missing(data, train, monkeypatch, package):
    """The package is at fault, and no entry of a file in another format."""
    monkeypatch.setitem(sys.modules, package, None)
    kind, step = READERS[package]
    with Path('config.py').open('a') as file:
        file.write(
            f"""
train_dataloader['dataset'] = dict(
    dataset,
    type={kind!r},
    pipeline=[dict(type='LoadImageFromFile'), dict(type={step!r})],
    data_prefix=dict(img='train/', seg='train/'),
)
"""
        )

    def change(content):  # as panoptic files and LVIS' have it
        for image in content['images']:
            image['coco_url'] = image.pop('file_name')
        segments = [a for a in content['annotations'] if a.pop('image_id') == 0]
        content['annotations'] = [dict(image_id=0, segments_info=segments)]

    edit(data, change)
    sentence = f'package {package!r}, which is missing: `pip install git+https://'
    assert_one_sentence(train(), sentence)


#: (change of an image's annotations in a panoptic file, what the sentence names)
PANOPTIC_FLAWS = {
    'none': (lambda entry: None, None),
    'no segments': (lambda entry: entry.pop('segments_info'), 'has no segments_info'),
    'no id': (lambda entry: entry['segments_info'][0].pop('id'), 'has no id in'),
    'no box': (lambda entry: entry['segments_info'][0].pop('bbox'), 'has no bbox in'),
}


@pytest.mark.parametrize('name', PANOPTIC_FLAWS)
def test_flaws_of_a_panoptic_file(data, name):
    change, told = PANOPTIC_FLAWS[name]

    def make_panoptic(content):
        first = content['annotations'][0]
        segment = {n: first[n] for n in ('id', 'category_id', 'bbox', 'area')}
        entry = dict(image_id=0, file_name='0.png', segments_info=[segment, segment])
        content['annotations'] = [entry]
        change(entry)

    edit(data, make_panoptic)
    flaw = flaw_in_coco(str(data / ANNOTATIONS), CLASSES, masks=False, panoptic=True)
    assert flaw is None if told is None else told in flaw


def test_a_test_set_needs_no_annotations(data):
    edit(data, lambda content: content.pop('annotations') and None)
    path = str(data / ANNOTATIONS)
    assert flaw_in_coco(path, CLASSES, test_mode=True) is None
    assert 'no list of annotations' in flaw_in_coco(path, CLASSES)


def test_a_jpeg_with_damage_inside_is_read(data):
    """libjpeg repairs what it can; nobody notices."""
    whole = (data / 'train/1.jpg').read_bytes()
    spoilt = whole[:700] + bytes(40) + whole[740:]
    assert cv2.imdecode(np.frombuffer(spoilt, np.uint8), 1).shape == (64, 80, 3)


def test_other_errors_keep_their_traceback(data, train, monkeypatch):
    """Even if the data has a flaw, which may be harmless."""
    edit(data, drop('annotations', 'segmentation'))
    from mmengine.runner import Runner

    def fail(self):
        raise RuntimeError('out of luck')

    monkeypatch.setattr(Runner, 'train', fail)
    with pytest.raises(RuntimeError, match='out of luck'):
        train()


def test_a_backbone_that_refuses_its_arguments(data, train):
    result = train('model.backbone.key.num_charts=0')
    assert_one_sentence(result, 'num_charts must be a positive integer, got 0')
    result = train('model.backbone.arch.depths=[1]')
    assert_one_sentence(result, 'depths and num_heads must be lists')


def test_pictures_of_images_that_the_config_resizes(data, train):
    """Their masks are drawn in the image's own size."""
    cfg = Config.fromfile('config.py')
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), 'x.pth')
    assert train(name='test', checkpoint=['x.pth', '--show-dir=shown']) == (0, [])
    (size,) = {cv2.imread(str(path)).shape for path in Path('shown').glob('*.jpg')}
    assert size == (64, 2 * 80, 3)  # the truth beside the prediction


class Burglar:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('broken_in',)


def test_a_strangers_checkpoint_runs_no_code(data, train):
    torch.save(dict(state_dict={}, extra=Burglar()), 'x.pth')
    result = train(name='test', checkpoint=['x.pth'])
    assert_one_sentence(result, 'x.pth holds', 'mkdir', 'if you trust the file')
    assert not Path('broken_in').exists()
