"""Datasets within wrappers, as configs and as objects; what is within no wrapper."""

from types import SimpleNamespace

import pytest

from mmmanikey.engine.data import (
    leaf_configs,
    leaf_datasets,
    too_few_outputs,
    type_name,
    unread_prefixes,
)


def test_configs_within_wrappers():
    first, second = dict(type='A'), dict(type='B', datasets=None)
    joined = dict(type='ConcatDataset', datasets=[first, second])
    assert list(leaf_configs(dict(type='RepeatDataset', dataset=joined))) == [
        first,
        second,
    ]
    assert list(leaf_configs(first)) == [first]


def test_datasets_within_wrappers():
    first, second = SimpleNamespace(), SimpleNamespace(datasets=[])
    joined = SimpleNamespace(datasets=[first, second])
    assert list(leaf_datasets(SimpleNamespace(dataset=joined))) == [first, second]
    assert list(leaf_datasets(first)) == [first]


def test_a_head_too_small_is_found_within_what_holds_it():
    head = dict(type='Head', num_classes=3)
    roi_head = dict(bbox_head=[8, dict(head)], mask_head=dict(num_classes=9))
    model = dict(detector=dict(num_classes='3', neck=None, roi_head=roi_head))
    assert too_few_outputs(model, 3) is None
    assert too_few_outputs(model, 4) == (
        'model.detector.roi_head.bbox_head.num_classes is 3, the data has 4 classes'
    )


@pytest.mark.parametrize(
    'model',
    [
        dict(rpn_head=dict(num_classes=1)),
        dict(reid=dict(head=dict(num_classes=1))),
        dict(panoptic_head=dict(num_things_classes=1)),
        dict(bbox_head=dict(num_classes=1), language_model=dict()),
        dict(decode_head=dict(num_classes=1), text_encoder=dict()),
        dict(mask_head=dict(num_classes=1, class_agnostic=True)),
        dict(auxiliary_head=[dict(type='mmseg.STDCHead', num_classes=1)]),
        dict(decode_head=dict(num_classes=1)),  # one output tells two classes
    ],
)
def test_a_head_that_needs_no_output_for_every_class(model):
    assert too_few_outputs(model, 2) is None


def test_one_output_does_not_tell_three_classes():
    assert too_few_outputs(dict(decode_head=dict(num_classes=1)), 3)
    assert too_few_outputs(dict(bbox_head=dict(num_classes=1)), 2)


@pytest.mark.parametrize(
    ('steps', 'unread'),
    [
        ([], set()),
        (['LoadImageFromFile'], {'seg', 'seg_map_path', 'depth_map_path'}),
        (['mmseg.LoadAnnotations'], {'seg'}),
        (['LoadPanopticAnnotations'], set()),
        ([dict(type='LoadAnnotations', with_seg=True)], set()),
    ],
)
def test_folders_of_label_maps_that_no_step_reads(steps, unread):
    steps = [dict(type=step) if isinstance(step, str) else step for step in steps]
    assert unread_prefixes(dict(pipeline=steps)) == unread


def test_names_of_types():
    assert type_name(dict(type='mmseg.A')) == type_name(dict(type='A')) == 'A'
    assert type_name(dict(type=SimpleNamespace)) == 'SimpleNamespace'
