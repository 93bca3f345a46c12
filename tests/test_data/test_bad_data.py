"""What is wrong with data: training goes on as the FAQ says, or ends in a sentence."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as rle
from small_coco import ANNOTATIONS, CONFIG, assert_one_sentence, box, drop, edit


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
    'no dict': (
        lambda content: content['images'].append(3),
        ['has 3 among its images, which is no dict'],
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
