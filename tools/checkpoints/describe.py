"""Show what is in a checkpoint, and whether a config's backbone would take it.

    python tools/checkpoints/describe.py work_dirs/x/epoch_12.pth
    python tools/checkpoints/describe.py x-1234abcd.pth --config configs/y.py

With --config the backbone of the config loads the file as in a training, and the table
counts its parameters by what became of them. Status 1 if it would be refused.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from mmengine.config import Config
from torch import Tensor

from mmmanikey.arguments import is_list
from mmmanikey.checkpoint import (
    CheckpointError,
    PretrainedBackbone,
    describe_backbone,
    read_checkpoint,
)
from mmmanikey.checkpoint.config_text import backbone_config
from mmmanikey.checkpoint.coverage import Coverage
from mmmanikey.checkpoint.entries import Entry, entries_of, main_entry
from mmmanikey.checkpoint.find import find_backbone
from mmmanikey.engine import cli
from mmmanikey.engine.build import build_from

#: What a checkpoint's meta says in a line.
META = ('epoch', 'iter', 'time', 'mmengine_version')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint file, URL or zoo name')
    parser.add_argument('--config', help='config whose backbone is to take the file')
    parser.add_argument(
        '--ema', action='store_true', help='take averaged weights, as of timm or DINO'
    )
    return parser.parse_args()


def line(title: str, text: object) -> str:
    return f'{title:16}{text}'


def wrapper_lines(content: Mapping) -> Iterator[str]:
    """What stands beside the weights."""
    others = [n for n, v in content.items() if not isinstance(v, Tensor)]
    if not others:
        yield line('kind', 'a bare state dict')
        return
    trains = 'optimizer' in others or 'message_hub' in others
    kind = 'training checkpoint' if trains else 'weights only'
    yield line('kind', f'{kind}: {", ".join(map(str, others))}')


def meta_lines(meta: Mapping) -> Iterator[str]:
    for name in META:
        if name in meta:
            yield line(name.removesuffix('_version'), meta[name])
    published, dataset = meta.get('published_with'), meta.get('dataset_meta')
    for name, version in published.items() if isinstance(published, Mapping) else ():
        yield line('published with', f'{name} {version}')
    classes = dataset.get('classes') if isinstance(dataset, Mapping) else None
    if is_list(classes):
        shown = ', '.join(map(str, classes[:10]))
        more = ', ...' if len(classes) > 10 else ''
        yield line('classes', f'{len(classes)}: {shown}{more}')
    if 'cfg' in meta:
        yield line('config', f'{len(str(meta["cfg"]).splitlines())} lines')


def entry_lines(entries: list[Entry]) -> Iterator[str]:
    """The entries, and of the one with the model: what stands under the first names."""
    main = main_entry(entries)
    for entry in entries:
        if len(entries) > 1 and entry is not main:
            yield line('also there', entry)
    if main.name:
        yield line('weights in', main.name)
    parts = defaultdict(list)
    for name, value in main.weights.items():
        parts[name.partition('.')[0]].append(value)
    yield f'{"":16}{"tensors":>8}{"numbers":>13}  dtypes'
    for part, values in parts.items():
        dtypes = Counter(str(v.dtype).removeprefix('torch.') for v in values)
        numbers = sum(v.numel() for v in values)
        yield f'{part:16}{len(values):8}{numbers:13,}  {", ".join(dtypes)}'


def backbone_lines(content: object, checkpoint: str, ema: bool) -> Iterator[str]:
    """Architecture and keys; the same key in a row of stages or layers is one line."""
    try:
        place = find_backbone(content, checkpoint, ema=ema)
    except CheckpointError as error:
        yield line('backbone', f'not found: {error}')
        return
    yield line('found in', place)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    found = describe_backbone(place.weights, backbone_config(meta))
    if found is None:
        yield line('backbone', 'neither our Swin nor our ViT')
        return
    keys = [describe_in_words(key) for key in found.pop('keys')]
    told = {k: 'unknown' if v is None else v for k, v in found.items() if k != 'type'}
    words = ', '.join(f'{k}={v}' for k, v in told.items())
    yield line('backbone', f'{found["type"]}: {words}')
    unit = 'stage' if found['type'] == 'Swin' else 'layer'
    for key, numbers in grouped(keys).items():
        yield line('key', f'{key} in {unit} {", ".join(map(str, numbers))}')


def grouped(items: list[str]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for number, item in enumerate(items):
        groups[item].append(number)
    return groups


def describe_in_words(key: dict) -> str:
    key = dict(key)
    kind = key.pop('type')
    return f'{kind}({", ".join(f"{k}={v}" for k, v in key.items())})' if key else kind


def try_on(cfg: Config, checkpoint: str, ema: bool) -> Coverage:
    """Load the file into the backbone of a config as in a training.

    Raises:
        CheckpointError: If it is refused.
    """
    init_cfg = {n: v for n, v in cfg.model.backbone.items() if n == 'init_cfg'}
    backbone = build_from(cfg, **init_cfg)
    loading = next(iter(getattr(backbone, 'pretrained_cfg', [])), {})
    others = ('type', 'checkpoint', 'stock', 'override')
    options = {name: v for name, v in loading.items() if name not in others}
    if ema:
        options['ema'] = True
    return PretrainedBackbone(checkpoint, **options).load(backbone)


def main() -> int:
    args = parse_args()
    cfg = cli.read_config(args.config) if args.config else None
    if cfg is not None and not (cfg.get('model') or {}).get('backbone'):
        raise cli.UsageError(f'{args.config!r} has no model with a backbone')
    cli.check_checkpoint(args.checkpoint)
    content = read_checkpoint(args.checkpoint)
    entries = entries_of(content, args.checkpoint)
    print(line('file', args.checkpoint))
    meta = content.get('meta')
    for text in (
        *wrapper_lines(content),
        *(meta_lines(meta) if isinstance(meta, Mapping) else ()),
        *entry_lines(entries),
        *backbone_lines(content, args.checkpoint, args.ema),
    ):
        print(text)
    if cfg is None:
        return 0
    print(f'\ninto the backbone of {args.config}')
    try:
        print(try_on(cfg, args.checkpoint, args.ema))
    except CheckpointError as error:
        print(f'refused: {error}')
        return 1
    return 0


if __name__ == '__main__':
    cli.tool(lambda: sys.exit(main()))
