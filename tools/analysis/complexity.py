"""Parameters and multiply-accumulates by part, all key strategies side by side.

    python tools/analysis/complexity.py                      # Swin-T and ViT-B
    python tools/analysis/complexity.py CONFIG --shape 800 1333

Without a config these are the backbones alone; of a config of mmdet, mmpretrain or
mmseg the neck and the heads are counted as well. Multiply-accumulates (MACs) are what
OpenMMLab's tables call FLOPs. They are counted by torch's own counter while the model
runs on one image, attention's matrix products included. A two-stage detector's heads
run on the proposals that random weights make, at most as many as its test_cfg allows.
"""

import argparse
from collections import Counter
from pathlib import Path

import torch
from mmengine.config import Config

from mmmanikey.anywhere.twin import image_shape
from mmmanikey.arguments import type_name
from mmmanikey.engine import cli
from mmmanikey.engine.build import build_model, set_scope
from mmmanikey.engine.macs import count_macs

STRATEGIES = ('linear', 'VanillaK', 'SimpleK', 'KUA', 'SpatialK')
BACKBONES = {
    'Swin-T': dict(type='mmmanikey.ManifoldKeySwin', arch='tiny'),
    'ViT-B': dict(type='mmmanikey.ManifoldKeyViT', arch='deit-base'),
}
#: Parts of a backbone by a component of the module's name; the first match counts.
INNER = {
    'patch_embed': 'patch embedding',
    'key': 'key',
    'attn': 'attention, without a manifold key',
    'ffn': 'MLP',
}
REST = 'rest of the backbone'
PARTS = (*INNER.values(), REST, 'neck', 'heads')


def part_of(name: str) -> str:
    """The part that a module or parameter of a model belongs to, by its name."""
    first, *others = name.split('.')
    if first != 'backbone':
        return 'neck' if first == 'neck' else 'heads'
    return next((part for word, part in INNER.items() if word in others), REST)


def measure(model: dict, shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Count a model.

    Args:
        model (dict): Its config, or that of a backbone alone as ``backbone``.
        shape (tuple[int, int]): Height and width of the image.

    Returns:
        dict[str, tuple[int, int]]: Parameters, and multiply-accumulates for one image,
        of every part that the model has.
    """
    alone = set(model) == {'backbone'}
    built = build_model(model, whole=not alone).eval()
    others = [] if alone else samples(built, shape)
    image = torch.zeros(1, image_shape(built)[1], *shape)
    counted = count_macs(lambda: built(image, *others))
    prefix = 'backbone' if alone else ''
    params = Counter()
    for name, parameter in built.named_parameters():
        params[part_of(join(prefix, name))] += parameter.numel()
    macs = Counter()
    for name, number in counted.items():
        macs[part_of(join(prefix, name.partition('.')[2]))] += number
    return {p: (params[p], macs[p]) for p in PARTS if params[p] or macs[p]}


def samples(model: torch.nn.Module, shape: tuple[int, int]) -> list:
    """What a detector is told of the image; other models run without."""
    if not type(model).__module__.startswith('mmdet.'):
        return []
    from mmdet.structures import DetDataSample

    shapes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    info = dict.fromkeys(shapes, shape)
    return [[DetDataSample(metainfo=dict(info, scale_factor=(1.0, 1.0)))]]


def join(prefix: str, name: str) -> str:
    return '.'.join(part for part in (prefix, name) if part)


def key_config(strategy: str, backbone: dict, num_charts: int | None) -> dict | None:
    """The key of a strategy, with what the config says of its own where it applies."""
    if strategy == 'linear':
        return None
    named = backbone.get('key')
    named = dict(named) if isinstance(named, dict) else {}
    key = dict(type=strategy, num_charts=num_charts or named.get('num_charts', 8))
    if 'residual' in named:
        key['residual'] = named['residual']
    if strategy != 'SpatialK' and 'hidden_ratio' in named:
        key['hidden_ratio'] = named['hidden_ratio']
    if strategy == 'SpatialK' and type_name(backbone).endswith('ViT'):
        window = named.get('window_size') or backbone.get('window_size')
        key.update(dict(window_size=window) if window else {})
    return key


def table(
    name: str, model: dict, shape: tuple[int, int], num_charts: int | None
) -> str:
    """Markdown table: parts in rows, strategies in columns."""
    counts = {}
    for strategy in STRATEGIES:
        key = key_config(strategy, model['backbone'], num_charts)
        backbone = {**model['backbone'], 'key': key}
        counts[strategy] = measure({**model, 'backbone': backbone}, shape)
        counts[strategy]['total'] = tuple(map(sum, zip(*counts[strategy].values())))
    rows = [
        f'{name}, {shape[0]}×{shape[1]}; parameters (M) / MACs (G)\n',
        f'| part | {" | ".join(STRATEGIES)} |',
        '|---' + '|---:' * len(STRATEGIES) + '|',
    ]
    for part in (*PARTS, 'total'):
        cells = [in_words(counts[strategy].get(part)) for strategy in STRATEGIES]
        if set(cells) != {'-'}:
            rows.append(f'| {part} | {" | ".join(cells)} |')
    stock = counts['linear']['total'][1]
    against = [f'{counts[s]["total"][1] / stock:.2f}×' for s in STRATEGIES]
    rows.append(f'| MACs against linear | {" | ".join(against)} |')
    return '\n'.join(rows)


def in_words(count: tuple[int, int] | None) -> str:
    return '-' if count is None else f'{count[0] / 1e6:.2f} / {count[1] / 1e9:.2f}'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', nargs='?', help='config file; default Swin-T and ViT-B'
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        default=(224, 224),
        metavar='PX',
        help='height and width of the image; default 224 224',
    )
    parser.add_argument(
        '--charts', type=int, help="charts of a key; default the config's, or 8"
    )
    return parser.parse_args()


def read_model(path: str) -> dict:
    """The model of a config, its normalisation left out: it counts for nothing."""
    cfg: Config = cli.read_config(path)
    model = cfg.get('model') or {}
    kind = str((model.get('backbone') or {}).get('type'))
    if not kind.rpartition('.')[2].startswith('ManifoldKey'):
        raise cli.UsageError(
            f'{path!r} has no backbone of mmmanikey at model.backbone; its type is '
            f'{kind}'
        )
    set_scope(cfg)
    return dict(model) if 'type' in model else dict(backbone=model.backbone)


def main() -> None:
    args = parse_args()
    models = {name: dict(backbone=cfg) for name, cfg in BACKBONES.items()}
    if args.config:
        models = {Path(args.config).stem: read_model(args.config)}
    for name, model in models.items():
        try:
            text = table(name, model, tuple(args.shape), args.charts)
        except Exception as error:  # constructors of any project
            reason = cli.in_one_line(error)
            raise cli.UsageError(f'cannot count {name}: {reason}') from error
        print(text, end='\n\n')


if __name__ == '__main__':
    cli.tool(main)
