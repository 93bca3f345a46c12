"""Traffic: what Swin asks of a GPU, counted on fake CUDA tensors, so without one.

    python benchmarks/traffic.py

Operators launched, bytes read and written, and FLOPs, of a forward pass and of a
training step in bfloat16 autocast. They are exact and the same on every host. The time
on an H100 is an estimate from them.
"""

import argparse
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fake_cuda import bfloat16, fake_cuda, move
from measure import conditions
from networks import (
    KEYS,
    LINEAR,
    QUICK_SWIN,
    STOCK,
    SWIN_T,
    installed_peers,
    key_of,
    ours,
    peer,
)
from report import align, number, positive, verdict
from tally import Count, Tally, accumulate, backward
from torch import nn

from mmmanikey.visualization.output import write_text

#: SpatialK where Triton is not installed, or does not serve.
PLAIN_SPATIAL = 'SpatialK, no Triton'
NETWORKS = (LINEAR, 'SpatialK', PLAIN_SPATIAL, 'VanillaK')
SHAPES = ((64, 224, 224), (2, 800, 1344))
#: Of launches and bytes of a forward pass over those of mmdet's stock network, for the
#: first shape.
BOUNDS = {
    LINEAR: (0.75, 0.90),
    'SpatialK': (0.95, 1.05),
    PLAIN_SPATIAL: (1.10, 1.35),
    'VanillaK': (None, 1.40),
}
HEAD = (
    *('images', 'network', 'what', 'launches', 'over stock', 'GB', 'over stock'),
    *('TFLOP', 'H100, estimate', 'over stock'),
)


@dataclass
class Row:
    """The counts of one network.

    Args:
        shape (tuple[int, int, int]): Images, their height and their width.
        network (str): Its name.
        what (str): 'forward', in evaluation mode and without gradients, or 'step',
            forward and backward in training mode.
        count (Count): Of all operators.
        stock (Count): Of mmdet's stock network.
        bounds (tuple[float | None, float | None]): Of the ratios of launches and bytes.
        operators (dict[str, Count]): Counts by the name of the operator or kernel.
    """

    shape: tuple[int, int, int]
    network: str
    what: str
    count: Count
    stock: Count
    bounds: tuple[float | None, float | None]
    operators: dict[str, Count]

    @property
    def ratios(self) -> tuple[float, float]:
        """Launches and bytes over those of mmdet's stock network."""
        return (
            self.count.launches / self.stock.launches,
            self.count.bytes / self.stock.bytes,
        )

    def cells(self) -> tuple[str, ...]:
        launches, moved = map(judged, self.ratios, self.bounds)
        estimate = self.count.estimate
        return (
            *('x'.join(map(str, self.shape)), self.network, self.what),
            *(str(self.count.launches), launches),
            *(f'{self.count.bytes / 1e9:.3f}', moved),
            *(f'{self.count.flops / 1e12:.3f}', f'{estimate * 1e3:.2f} ms'),
            number(estimate / self.stock.estimate),
        )

    def as_json(self) -> dict:
        return {
            **asdict(self.count),
            'shape': self.shape,
            'network': self.network,
            'what': self.what,
            'estimated_h100_seconds': self.count.estimate,
            'launches_ratio': self.ratios[0],
            'bytes_ratio': self.ratios[1],
            'bounds': self.bounds,
            'operators': {
                name: (count.launches, count.bytes)
                for name, count in sorted(self.operators.items())
            },
        }


def judged(ratio: float, bound: float | None) -> str:
    """A ratio with its bound, if it has one."""
    if bound is None:
        return number(ratio)
    return f'{ratio:.2f} <= {bound:.2f} {verdict(ratio, bound)}'


def count(
    model: nn.Module, shape: tuple[int, int, int], what: str, triton: bool = False
) -> Tally:
    """Count what a network asks of a GPU, at its second call.

    Args:
        model (nn.Module): Built on the CPU; it has no numbers afterwards.
        shape (tuple[int, int, int]): Images, their height and their width.
        what (str): 'forward' or 'step', see :class:`Row`.
        triton (bool): Whether Triton's kernels are served. Defaults to False.

    Returns:
        Tally: Of a forward pass from images in float32 to maps, and for a step of the
        backward pass from the gradients of the maps to those of the parameters.
    """
    batch, height, width = shape
    learns = what == 'step'
    model.train(learns)
    tally = Tally()

    def call() -> None:
        with torch.set_grad_enabled(learns), bfloat16():
            maps = list(model(images))
        if learns:
            accumulate(backward(maps, [torch.empty_like(each) for each in maps]))

    with fake_cuda(tally, triton):
        move(model)
        images = torch.empty(batch, 3, height, width)
        call()
        tally.by_name.clear()  # of kernels
        with tally:
            call()
    return tally


def build(name: str, shape: tuple[int, int, int], quick: bool) -> nn.Module:
    """The network of that name in the table."""
    arch = QUICK_SWIN if quick else SWIN_T
    if name in KEYS or name == PLAIN_SPATIAL:
        return ours(arch, key_of(name.split(',')[0]))
    return peer(name, arch, size=shape[1:])


def rows_of(
    shape: tuple[int, int, int],
    names: Sequence[str],
    quick: bool,
    parts: Sequence[str] = ('forward', 'step'),
) -> list[Row]:
    """Counts of mmdet's stock network and of others."""
    rows, stock = [], {}
    for name in [STOCK, *names]:
        model = build(name, shape, quick)
        for what in parts:
            tally = count(model, shape, what, triton=name in KEYS)
            total = tally.total
            bounded = shape == SHAPES[0] and what == 'forward' and not quick
            bounds = BOUNDS.get(name, (None, None)) if bounded else (None, None)
            stock.setdefault(what, total)
            args = name, what, total, stock[what], bounds, tally.by_name
            rows.append(Row(shape, *args))
    return rows


def parse_args() -> argparse.Namespace:
    others = [name for name in installed_peers() if name != STOCK]
    choices = [*others, *NETWORKS]
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--networks', nargs='+', choices=choices, default=choices)
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=3,
        action='append',
        metavar=('IMAGES', 'HEIGHT', 'WIDTH'),
        help='may be given several times',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the counts')
    parser.add_argument(
        '--quick', action='store_true', help='a small network: tries the script'
    )
    args = parser.parse_args()
    args.shape = [tuple(shape) for shape in args.shape or SHAPES]
    for shape in args.shape:
        if any(side % 4 for side in shape[1:]):
            parser.error(
                f'--shape {" ".join(map(str, shape))}: height and width must be '
                'multiples of 4, the side of a patch'
            )
    ours = [name for name in args.networks if name in KEYS]
    if ours and not importlib.util.find_spec('triton'):
        parser.error(
            f'{", ".join(ours)}: counted with Triton kernels, and Triton is not '
            'installed; install it, or name other --networks'
        )
    return args


def main() -> None:
    args = parse_args()
    rows = []
    for shape in args.shape:
        rows += rows_of(shape, args.networks, args.quick)
    print(align([HEAD, *(row.cells() for row in rows)]), end='\n\n')
    known = conditions(torch.device('cpu'), autocast='bfloat16', quick=args.quick)
    for of_host in ('device', 'threads'):  # which counts do not depend on
        del known[of_host]
    print(', '.join(f'{key} {value}' for key, value in known.items()))
    if args.json:
        head = json.dumps(dict(benchmark='traffic', conditions=known)).removesuffix('}')
        lines = ',\n'.join(json.dumps(row.as_json()) for row in rows)
        write_text(args.json, f'{head}, "rows": [\n{lines}\n]}}\n')


if __name__ == '__main__':
    main()
