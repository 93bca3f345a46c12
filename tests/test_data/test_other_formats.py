"""Panoptic files, LVIS' and test sets: not what COCO's objects have, and no flaw."""

import sys
from pathlib import Path

import pytest
from small_coco import ANNOTATIONS, CLASSES, assert_one_sentence, edit

from mmmanikey.engine.coco import flaw_in_coco

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
    'no list': (lambda entry: entry.update(segments_info=3), 'has no list of segments'),
    'no dict': (
        lambda entry: entry.update(segments_info=[7]),
        'has 7 among its segments_info, which is no dict',
    ),
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
