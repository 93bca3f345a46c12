"""Checks of datasets against the config, before training and where reading fails.

A check refuses only what cannot work: the tests walk every config of mmdet's, mmseg's
and mmpretrain's zoos, with data that fits it, through all of them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..arguments import type_name
from ..checkpoint.files import is_local
from .coco import flaw_in_coco, flaw_in_names, flaw_in_order

#: Datasets of mmpretrain that download what is missing.
DOWNLOADED = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')
#: How loaders name a file that they could not read.
UNREADABLE = re.compile(r'failed to load image: (.+)')
#: How Python tells of a file that it could not open.
UNOPENED = re.compile(r"\[Errno \d+\] ([^:\n]+): '(.+?)'")
#: How the frameworks and Python name a package that is not there.
MISSING = re.compile(
    r"`?([\w-]+)`? is not installed|ModuleNotFoundError: No module named '([^']+)'"
)
INSTALL = re.compile(r'pip install [\w./:+-]*[\w/-]')
#: Heads that tell the classes of the data apart, and parts of models that contain such
#: heads. An rpn_head finds objects without a class, a panoptic_head parts things from
#: stuff, and a reid head knows persons.
CLASSIFIERS = (
    'bbox_head',
    'mask_head',
    'mask_iou_head',
    'point_head',
    'decode_head',
    'auxiliary_head',
    'head',
)
HOLDERS = ('detector', 'roi_head')
#: Heads in which one output serves two classes: its sigmoid, and one minus that.
BINARY = ('decode_head', 'auxiliary_head')
#: Parts of models whose classes are given as texts: they take any number of classes.
TEXTS = ('language_model', 'text_encoder')


def leaf_configs(dataset: Mapping) -> Iterator[Mapping]:
    """Configs of the datasets in wrappers, such as those that repeat or join them."""
    inner = [dataset.get('dataset'), *(dataset.get('datasets') or [])]
    inner = [cfg for cfg in inner if isinstance(cfg, Mapping)]
    for cfg in inner:
        yield from leaf_configs(cfg)
    if not inner:
        yield dataset


def leaf_datasets(dataset: object) -> Iterator[object]:
    """As :func:`leaf_configs`, of datasets that are built."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
        return
    for part in inner:
        yield from leaf_datasets(part)


def unread_prefixes(dataset: Mapping) -> set[str]:
    """Keys of ``data_prefix`` that name label maps which no step of a config reads."""
    steps = [step for step in dataset.get('pipeline') or [] if isinstance(step, dict)]
    if not steps:
        return set()
    loading = [step for step in steps if 'Annotation' in type_name(step)]
    unread = set() if loading else {'seg_map_path', 'depth_map_path'}
    if not any(s.get('with_seg') or 'Panoptic' in type_name(s) for s in loading):
        unread.add('seg')  # mmdet's steps read these when they are asked to
    return unread


def dataset_paths(dataset: dict) -> Iterator[str]:
    """Local paths that a dataset's config names, wrapped datasets included."""
    for inner in [dataset.get('dataset'), *(dataset.get('datasets') or [])]:
        if isinstance(inner, dict):
            yield from dataset_paths(inner)
    if type_name(dataset) in DOWNLOADED:
        return
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or ''
    if isinstance(prefix, dict):
        unread = unread_prefixes(dataset)
        named = [value for name, value in prefix.items() if name not in unread]
    else:
        named = [prefix]
    named = [n for n in [dataset.get('ann_file'), *named] if n and isinstance(n, str)]
    below = (os.path.join(root, name) if is_local(name) else name for name in named)
    yield from (path for path in [root, *below] if path and is_local(path))


def flaw_in_config(cfg: Config, phase: str) -> str | None:
    """One sentence on the first flaw in the data of a phase, or None.

    To be asked after a dataset could not be built or read.
    """
    loader = cfg.get(f'{phase}_dataloader') or {}
    for dataset in leaf_configs(loader.get('dataset') or {}):
        if flaw := flaw_in_file(dataset) or all_filtered(dataset):
            return flaw
    return None


def flaw_in_file(dataset: Mapping) -> str | None:
    """A flaw in the annotations of a dataset in COCO's format, which LVIS' is not."""
    cls = dataset.get('type')
    if not isinstance(cls, type):
        with DATASETS.switch_scope_and_registry(None) as registry:
            cls = registry.get(str(cls))
    path = os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    if not hasattr(cls, 'COCOAPI') or not os.path.isfile(path):
        return None
    from mmdet.datasets import CocoPanopticDataset, LVISDataset

    if issubclass(cls, LVISDataset):
        return None
    panoptic = issubclass(cls, CocoPanopticDataset)  # its masks are pictures
    steps = dataset.get('pipeline') or []
    return flaw_in_coco(
        path,
        cls._load_metainfo(dataset.get('metainfo')).get('classes'),
        masks=not panoptic and any(step.get('with_mask') for step in steps),
        panoptic=panoptic,
        test_mode=dataset.get('test_mode', False),
    )


def all_filtered(config: Mapping) -> str | None:
    """One sentence if ``filter_cfg`` leaves none of the images, or None."""
    if not config.get('filter_cfg') or config.get('test_mode'):
        return None
    whole = dict(config, filter_cfg=None, pipeline=[], serialize_data=False)
    dataset = None
    with suppress(Exception):  # it cannot be built, for another reason
        dataset = DATASETS.build(whole)
        dataset.filter_cfg = config['filter_cfg']
    if dataset is None or not dataset.data_list or dataset.filter_data():
        return None
    filters = dict(config['filter_cfg'])
    told = f'filter_cfg {filters} leaves none of the {len(dataset)} images'
    side = max(min(i.get('height', 0), i.get('width', 0)) for i in dataset.data_list)
    if side < filters.get('min_size', 0):
        return (
            f'{told} of {dataset.ann_file!r}: the shorter side of the largest has '
            f'{side} pixels; set filter_cfg.min_size to that or less'
        )
    return (
        f'{told} of {dataset.ann_file!r}: lower filter_cfg.min_size, or keep images '
        f'without objects with filter_cfg.filter_empty_gt=False'
    )


def flaw_in_dataset(dataset: object, model: Mapping) -> str | None:
    """One sentence on the first flaw in a dataset that is built, or None.

    Annotations are read again only where the classes are the user's own.

    Args:
        dataset (object): The dataset, wrapped or not.
        model (Mapping): The config of a model that is trained on it; empty if none is.
            A model may be tested on data with more classes than it knows.
    """
    for leaf in leaf_datasets(dataset):
        metainfo = getattr(leaf, 'metainfo', None) or {}
        classes = metainfo.get('classes')
        if classes and (flaw := flaw_in_classes(leaf, classes)):
            return flaw
        if classes:
            # classes of stuff belong to other heads
            things = [c for c in metainfo.get('thing_classes', classes) if c in classes]
            if flaw := too_few_outputs(model, len(things)):
                return flaw
        for path in files_of(leaf) if getattr(leaf, 'ann_file', None) else ():
            if not os.path.isfile(path):
                return f'{path!r}, which {leaf.ann_file!r} names, does not exist'
    return None


def flaw_in_classes(dataset: object, classes: Sequence[str]) -> str | None:
    """One sentence on classes of the user's that do not fit the categories, or None."""
    if not hasattr(dataset, 'COCOAPI') or not os.path.isfile(dataset.ann_file):
        return None
    known = type(dataset).METAINFO.get('classes')
    if tuple(classes) == known and len(dataset.cat_ids) == len(classes):
        return None
    with open(dataset.ann_file, encoding='utf-8') as file:
        names = {entry['id']: entry['name'] for entry in json.load(file)['categories']}
    # some datasets sort the categories
    labels = [names.pop(number) for number in dataset.cat_ids]
    path, categories = dataset.ann_file, [*labels, *names.values()]
    return flaw_in_names(path, categories, classes) or flaw_in_order(
        path, categories, classes
    )


def too_few_outputs(model: Mapping, num_classes: int, at: str = 'model') -> str | None:
    """One sentence on a head with fewer outputs than the data has classes, or None."""
    if any(name in model for name in TEXTS):
        return None
    for name in (*CLASSIFIERS, *HOLDERS):
        value = model.get(name)
        inner = value if isinstance(value, (list, tuple)) else [value]
        for cfg in filter(lambda cfg: isinstance(cfg, Mapping), inner):
            place = f'{at}.{name}'
            outputs = cfg.get('num_classes')
            few = isinstance(outputs, int) and outputs < num_classes
            if few and name in CLASSIFIERS and tells_classes(name, cfg, num_classes):
                return (
                    f'{place}.num_classes is {outputs}, the data has {num_classes} '
                    f'classes'
                )
            if flaw := too_few_outputs(cfg, num_classes, place):
                return flaw
    return None


def tells_classes(name: str, head: Mapping, num_classes: int) -> bool:
    """Whether a head needs an output for every class of the data."""
    if type_name(head) == 'STDCHead':  # it finds the classes' borders
        return False
    one_of_two = name in BINARY and head['num_classes'] == 1 and num_classes == 2
    return not one_of_two and not head.get('class_agnostic')


def files_of(dataset: object) -> Iterator[str]:
    """Local images and label maps that a dataset reads."""
    if getattr(dataset, 'backend_args', None) or not hasattr(dataset, 'get_data_info'):
        return
    pipeline = getattr(dataset, 'pipeline', None)
    steps = getattr(pipeline, 'transforms', [])
    if any(getattr(step, 'ignore_empty', False) for step in steps):
        return  # another image takes the place of a missing one
    names = ['img_path']
    if any(getattr(step, 'with_seg', False) for step in steps):
        names.append('seg_map_path')
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        for name in names:
            if info.get(name) and is_local(info[name]):
                yield info[name]


def explain_read_error(error: Exception, datasets: Sequence[object]) -> str | None:
    """One sentence on what could not be read while training, or None.

    That is a file, or a package that reads it.
    """
    text = str(error)
    if isinstance(error, ModuleNotFoundError):
        text = f'ModuleNotFoundError: {text}'  # as a worker's traceback has it
    if missing := MISSING.search(text):
        package = missing[1] or missing[2]
        command = INSTALL.search(text)
        remedy = f'`{command[0]}`' if command else 'install it'
        return f'the config needs the package {package!r}, which is missing: {remedy}'
    if found := UNREADABLE.findall(text):  # a worker's has a traceback before
        return f'cannot read {found[-1]!r}: it is damaged, missing or locked'
    if found := UNOPENED.findall(text):
        reason, path = found[-1]
        return f'cannot open {path!r}: {reason}'
    if 'buf.empty()' in text:  # OpenCV does not say which file was empty
        for dataset in datasets:
            for leaf in leaf_datasets(dataset):
                for path in files_of(leaf):
                    if not os.path.getsize(path):
                        return f'cannot read {path!r}: it is empty'
    return None
