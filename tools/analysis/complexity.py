"""Parameters and multiply-accumulates of a backbone under every key strategy.

    python tools/analysis/complexity.py                      # Swin-T and ViT-B
    python tools/analysis/complexity.py CONFIG --shape 800 1333

Multiply-accumulates (MACs) are what OpenMMLab's tables call FLOPs. They are counted by
torch's own counter while the backbone runs, attention's matrix products included.
"""

import argparse
import copy
from pathlib import Path

import torch
from mmengine.config import Config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmmanikey.registry import MODELS

STRATEGIES = (None, 'VanillaK', 'SimpleK', 'KUA', 'SpatialK')
BACKBONES = {
    'Swin-T': dict(type='mmmanikey.ManifoldKeySwin', arch='tiny'),
    'ViT-B': dict(type='mmmanikey.ManifoldKeyViT', arch='deit-base'),
}


def measure(backbone: dict, shape: tuple[int, int]) -> tuple[int, int]:
    """Count one backbone.

    Args:
        backbone (dict): Its config.
        shape (tuple[int, int]): Height and width of the image.

    Returns:
        tuple[int, int]: Parameters, and multiply-accumulates for one image.
    """
    cfg = copy.deepcopy(dict(backbone))
    cfg.pop('init_cfg', None)
    model = MODELS.build(cfg).eval()
    counter = FlopCounterMode(display=False)
    # torch's counter knows the products of the plain form, not of every fused one
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.zeros(1, 3, *shape))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


def table(name: str, backbone: dict, shape: tuple[int, int], num_charts: int) -> str:
    """Markdown table of all strategies in one backbone."""
    rows = [
        f'| {name}, {shape[0]}×{shape[1]}, {num_charts} charts | parameters (M) '
        '| MACs (G) | against linear |',
        '|---|---:|---:|---:|',
    ]
    baseline = None
    for strategy in STRATEGIES:
        key = strategy and dict(type=strategy, num_charts=num_charts)
        params, macs = measure({**backbone, 'key': key}, shape)
        baseline = baseline or macs
        rows.append(
            f'| {strategy or "linear"} | {params / 1e6:.2f} | {macs / 1e9:.2f} '
            f'| {macs / baseline:.2f}× |'
        )
    return '\n'.join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Parameters and MACs of a backbone under every key strategy.'
    )
    parser.add_argument(
        'config', nargs='?', help='config file; default Swin-T and ViT-B'
    )
    parser.add_argument('--shape', type=int, nargs=2, default=(224, 224), metavar='PX')
    parser.add_argument('--charts', type=int, default=8)
    args = parser.parse_args()
    backbones = BACKBONES
    if args.config:
        if not Path(args.config).is_file():
            parser.error(f'config not found: {args.config}')
        model = Config.fromfile(args.config).model
        backbones = {Path(args.config).stem: dict(model.backbone)}
    for name, backbone in backbones.items():
        print(table(name, backbone, tuple(args.shape), args.charts), end='\n\n')


if __name__ == '__main__':
    main()
