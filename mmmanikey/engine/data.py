"""Is the data what the config says? Asked before training, and where reading fails.

The frameworks find most mistakes late, and name neither file nor remedy: "need at
least one array to concatenate" is mmengine's word for class names that no category has.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS

#: What a file of COCO's format must say of every image and every object.
NEEDED = dict(
    images=('id', 'file_name', 'height', 'width'),
    annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
    categories=('id', 'name'),
)
#: How loaders name a file that they could not read.
UNREADABLE = (
    re.compile(r'failed to load image: (.+)'),
    re.compile(r"\[Errno \d+\] [^:\n]+: '(.+?)'"),
)


def leaf_configs(dataset: Mapping) -> Iterator[Mapping]:
    """The datasets within wrappers, which repeat or join them."""
    inner = [dataset.get('dataset'), *(dataset.get('datasets') or [])]
    inner = [cfg for cfg in inner if isinstance(cfg, Mapping)]
    for cfg in inner:
        yield from leaf_configs(cfg)
    if not inner:
        yield dataset


def leaf_datasets(dataset: object) -> Iterator[object]:
    """The same for datasets that are built."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
        return
    for part in inner:
        yield from leaf_datasets(part)


def flaw_in_config(cfg: Config, phase: str) -> str | None:
    """One sentence on the first flaw in the COCO files of a phase, or None."""
    loader = cfg.get(f'{phase}_dataloader') or {}
    for dataset in leaf_configs(loader.get('dataset') or {}):
        with DATASETS.switch_scope_and_registry(None) as registry:
            cls = registry.get(str(dataset.get('type')))
        path = os.path.join(dataset.get('data_root') or '', dataset.get('ann_file', ''))
        if hasattr(cls, 'COCOAPI') and os.path.isfile(path):
            classes = cls._load_metainfo(dataset.get('metainfo')).get('classes')
            masks = any(step.get('with_mask') for step in dataset.get('pipeline') or [])
            if flaw := flaw_in_coco(path, classes, masks):
                return flaw
    return None


def flaw_in_coco(path: str, classes: Sequence[str], masks: bool = False) -> str | None:
    """One sentence on the first flaw in a file of COCO's format, or None.

    Args:
        path (str): The file.
        classes (Sequence[str]): The classes that the config names.
        masks (bool): Whether the objects must have masks. Defaults to False.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except ValueError as error:
        return f'{path!r} is no JSON file: {error}'
    if not isinstance(content, dict):
        return f"{path!r} is not in COCO's format: it is no dict"
    for part, needed in NEEDED.items():
        if not isinstance(content.get(part), list):
            return f"{path!r} is not in COCO's format: it has no list of {part}"
        for entry in content[part]:
            if lacks := [name for name in needed if name not in entry]:
                return f'{path!r} has no {lacks[0]} in {shortened(entry)} of its {part}'
    images = {image['id']: image for image in content['images']}
    return (
        flaw_in_classes(
            path, [entry['name'] for entry in content['categories']], classes
        )
        or flaw_in_objects(path, content['annotations'], images, masks)
        or nothing_to_find(path, content, classes)
    )


def flaw_in_classes(
    path: str, categories: Sequence[str], classes: Sequence[str]
) -> str | None:
    """Names that no category has, or in another order; labels would be mixed up."""
    told = f'metainfo.classes {list(classes)} for {path!r}'
    if isinstance(classes, str):
        return f'metainfo.classes of {path!r} must be a list, got the text {classes!r}'
    if unknown := [name for name in classes if name not in categories]:
        return f'{told} name {unknown[0]!r}, but its categories are {categories}'
    used = [name for name in categories if name in classes]
    if used != list(classes):
        return f'{told} must have the order of its categories: {used}'
    return None


def flaw_in_objects(
    path: str, annotations: Sequence[dict], images: Mapping, masks: bool
) -> str | None:
    """Objects that the frameworks cannot read."""
    repeated = [i for i, n in Counter(a['id'] for a in annotations).items() if n > 1]
    if repeated:
        return f'{path!r} has several annotations of the id {repeated[0]}'
    for entry in annotations:
        image, box = images.get(entry['image_id']), entry['bbox']
        of = f'the annotation {entry["id"]} in {path!r}'
        numbers = isinstance(box, list) and all(
            isinstance(x, (int, float)) for x in box
        )
        if not numbers or len(box) != 4:
            return f'{of} must have a bbox of four numbers, got {box!r}'
        mask = entry.get('segmentation')
        if masks and not mask:
            return f'{of} has no segmentation, and the config trains masks'
        if image and isinstance(mask, dict) and mask.get('size'):
            size = [image['height'], image['width']]
            if list(mask['size']) != size:
                return f'{of} has a mask of {mask["size"]} on an image of {size}'
    return None


def nothing_to_find(path: str, content: dict, classes: Sequence[str]) -> str | None:
    """No image, or none with an object of the classes."""
    if not content['images']:
        return f'{path!r} lists no images'
    ids = {entry['id'] for entry in content['categories'] if entry['name'] in classes}
    images = {entry['id'] for entry in content['images']}
    if not any(
        entry['category_id'] in ids and entry['image_id'] in images
        for entry in content['annotations']
    ):
        return f'{path!r} has no object of the classes {list(classes)} on its images'
    return None


def shortened(entry: object, length: int = 80) -> str:
    """The start of what an entry looks like."""
    text = repr(entry)
    return text if len(text) <= length else f'{text[:length]}...'


def flaw_in_dataset(dataset: object, model: Mapping) -> str | None:
    """One sentence on the first flaw in a dataset that is built, or None.

    Annotations are read again only where the classes are the user's own.
    """
    for leaf in leaf_datasets(dataset):
        classes = (getattr(leaf, 'metainfo', None) or {}).get('classes')
        if classes and hasattr(leaf, 'COCOAPI'):
            known = type(leaf).METAINFO.get('classes')
            if tuple(classes) != known or len(leaf.cat_ids) != len(classes):
                with open(leaf.ann_file, encoding='utf-8') as file:
                    names = [entry['name'] for entry in json.load(file)['categories']]
                if flaw := flaw_in_classes(leaf.ann_file, names, classes):
                    return flaw
        if classes and (flaw := too_few_outputs(model, len(classes))):
            return flaw
        for path in files_of(leaf):
            if not os.path.isfile(path):
                return f'{path!r}, which {leaf.ann_file!r} names, does not exist'
    return None


def too_few_outputs(model: Mapping, num_classes: int, at: str = 'model') -> str | None:
    """A head with fewer outputs than classes, anywhere in the model's config."""
    for name, value in model.items():
        if name == 'num_classes' and isinstance(value, int) and value < num_classes:
            return f'{at}.num_classes is {value}, the data has {num_classes} classes'
        inner = value if isinstance(value, list) else [value]
        for cfg in filter(lambda cfg: isinstance(cfg, Mapping), inner):
            if flaw := too_few_outputs(cfg, num_classes, f'{at}.{name}'):
                return flaw
    return None


def files_of(dataset: object) -> Iterator[str]:
    """Local images and label maps that an annotation file names, not a folder."""
    if not getattr(dataset, 'ann_file', None) or getattr(dataset, 'backend_args', None):
        return
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        for name in ('img_path', 'seg_map_path'):
            if info.get(name) and '://' not in info[name]:
                yield info[name]


def why_unreadable(error: Exception, datasets: Sequence[object]) -> str | None:
    """One sentence on a file that could not be read while training, or None."""
    for pattern in UNREADABLE:
        if found := pattern.findall(str(error)):  # a worker's has a traceback before
            return f'cannot read {found[-1]!r}: it is damaged, missing or locked'
    if 'buf.empty()' in str(error):  # OpenCV does not say which file was empty
        for dataset in datasets:
            for leaf in leaf_datasets(dataset):
                for path in files_of(leaf):
                    if not os.path.getsize(path):
                        return f'cannot read {path!r}: it is empty'
    return None
