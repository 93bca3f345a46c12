"""Datasets within wrappers, as configs and as objects; what is within no wrapper."""

from types import SimpleNamespace

from mmmanikey.engine.data import leaf_configs, leaf_datasets, too_few_outputs


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


def test_a_head_too_small_is_found_at_any_depth():
    head = dict(type='Head', num_classes=3)
    model = dict(num_classes='3', neck=None, roi_head=dict(heads=[8, dict(head)]))
    assert too_few_outputs(model, 3) is None
    assert too_few_outputs(model, 4) == (
        'model.roi_head.heads.num_classes is 3, the data has 4 classes'
    )
