"""Checks of annotation files in COCO's format, against what the config says.

The frameworks find most mistakes late, and name neither file nor remedy: "need at
least one array to concatenate" is mmengine's word for class names that no category has.
The formats of objects and of panoptic segments: https://cocodataset.org/#format-data
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

#: Fields that every image, object and category must have.
NEEDED = dict(
    images=('id', 'file_name', 'height', 'width'),
    annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
    categories=('id', 'name'),
)
#: In a panoptic file: the fields of an annotation, and those of its segments.
PANOPTIC = dict(annotations=('image_id', 'segments_info'))
SEGMENTS = ('id', 'category_id', 'bbox', 'area')


def flaw_in_coco(
    path: str,
    classes: Sequence[str] | None,
    *,
    masks: bool = False,
    panoptic: bool = False,
    test_mode: bool = False,
) -> str | None:
    """One sentence on the first flaw in a file of COCO's format, or None.

    Args:
        path (str): The file.
        classes (Sequence[str] | None): The classes that the config names.
        masks (bool): Whether the objects must have masks. Defaults to False.
        panoptic (bool): Whether the annotations are of images, and have segments.
            Defaults to False.
        test_mode (bool): Whether there may be nothing to find. Defaults to False.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except ValueError as error:
        return f'{path!r} is no JSON file: {error}'
    if not isinstance(content, dict):
        return f"{path!r} is not in COCO's format: it is no dict"
    if test_mode:  # COCO's own test sets have images and categories alone
        content.setdefault('annotations', [])
    for part, needed in {**NEEDED, **(PANOPTIC if panoptic else {})}.items():
        if not isinstance(content.get(part), list):
            return f"{path!r} is not in COCO's format: it has no list of {part}"
        if flaw := lacking(path, content[part], needed, part):
            return flaw
    if panoptic:
        for entry in content['annotations']:
            segments = entry['segments_info']
            if not isinstance(segments, list):
                return f'{path!r} has no list of segments_info in {shortened(entry)}'
            if flaw := lacking(path, segments, SEGMENTS, 'segments_info'):
                return flaw
        content['annotations'] = [
            {**segment, 'image_id': entry['image_id']}
            for entry in content['annotations']
            for segment in entry['segments_info']
        ]
    names = [entry['name'] for entry in content['categories']]
    if flaw := None if classes is None else flaw_in_names(path, names, classes):
        return flaw
    ids = {
        entry['id']
        for entry in content['categories']
        if classes is None or entry['name'] in classes
    }
    return (
        (None if panoptic else repeated_id(path, content['annotations']))
        or flaw_in_objects(path, content, ids, masks)
        or nothing_to_find(path, content, ids, classes, test_mode)
    )


def lacking(
    path: str, entries: Sequence[dict], needed: Sequence[str], part: str
) -> str | None:
    """One sentence on the first entry that lacks a field, or None."""
    for entry in entries:
        if not isinstance(entry, dict):
            return f'{path!r} has {shortened(entry)} among its {part}, which is no dict'
        if lacks := [name for name in needed if name not in entry]:
            return f'{path!r} has no {lacks[0]} in {shortened(entry)} of its {part}'
    return None


def flaw_in_names(
    path: str, categories: Sequence[str], classes: Sequence[str]
) -> str | None:
    """One sentence on a class that no category has, or on a repeated name, or None."""
    if isinstance(classes, str):
        return f'metainfo.classes of {path!r} must be a list, got the text {classes!r}'
    told = f'metainfo.classes {list(classes)} for {path!r}'
    if twice := repeated(classes):
        return f'{told} name {twice[0]!r} twice: name every class once'
    if unknown := [name for name in classes if name not in categories]:
        return f'{told} name {unknown[0]!r}, but its categories are {categories}'
    if twice := [name for name in repeated(categories) if name in classes]:
        return (
            f'{path!r} has {categories.count(twice[0])} categories of the name '
            f'{twice[0]!r}: join them, or name them differently'
        )
    return None


def flaw_in_order(
    path: str, categories: Sequence[str], classes: Sequence[str]
) -> str | None:
    """One sentence if classes and categories differ in order, which mixes up labels."""
    used = [name for name in categories if name in classes]
    if used != list(classes):
        return (
            f'metainfo.classes {list(classes)} for {path!r} must have the order of its '
            f'categories: {used}'
        )
    return None


def repeated(values: Sequence) -> list:
    """The values that occur more than once."""
    return [value for value, times in Counter(values).items() if times > 1]


def repeated_id(path: str, annotations: Sequence[dict]) -> str | None:
    """One sentence on an id that several objects share, or None."""
    if ids := repeated([entry['id'] for entry in annotations]):
        return f'{path!r} has several annotations of the id {ids[0]}'
    return None


def flaw_in_objects(path: str, content: dict, ids: set, masks: bool) -> str | None:
    """One sentence on the first object that the frameworks cannot read, or None."""
    images = {image['id']: image for image in content['images']}
    for entry in content['annotations']:
        image, box = images.get(entry['image_id']), entry['bbox']
        of = f'the annotation {entry["id"]} in {path!r}'
        numbers = isinstance(box, list) and all(
            isinstance(x, (int, float)) for x in box
        )
        if not numbers or len(box) != 4:
            return f'{of} must have a bbox of four numbers, got {box!r}'
        mask = entry.get('segmentation')
        if masks and not mask and entry['category_id'] in ids:
            return f'{of} has no segmentation, and the config trains masks'
        if image and isinstance(mask, dict) and mask.get('size'):
            size = [image['height'], image['width']]
            if list(mask['size']) != size:
                return f'{of} has a mask of {mask["size"]} on an image of {size}'
    return None


def nothing_to_find(
    path: str, content: dict, ids: set, classes: Sequence[str] | None, test_mode: bool
) -> str | None:
    """One sentence if there is no image, or none with an object of the classes."""
    if not content['images']:
        return f'{path!r} lists no images'
    images: Mapping = {entry['id'] for entry in content['images']}
    if not test_mode and not any(
        entry['category_id'] in ids and entry['image_id'] in images
        for entry in content['annotations']
    ):
        named = '' if classes is None else f' of the classes {list(classes)}'
        return f'{path!r} has no object{named} on its images'
    return None


def shortened(entry: object, length: int = 80) -> str:
    """An entry as text, cut to a length."""
    text = repr(entry)
    return text if len(text) <= length else f'{text[:length]}...'
