"""Peers: Swin of every project that is installed, against ours with each key.

    python benchmarks/peers.py --json FILE

Time of a forward pass and of a step over that of each peer, and what each key adds to
``key=None`` over its floor, see ``floors.py``. Every case is written as soon as it is
done; with ``--resume`` those in the file are not measured again. On CUDA the peak of
memory takes the place of the floors.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from floors import floor
from networks import (
    KEYS,
    LINEAR,
    PEERS,
    QUICK_SWIN,
    STOCK,
    SWIN_B,
    SWIN_T,
    installed_peers,
    key_of,
    ours,
    peer,
)
from report import BYTES, Setting, align, make_parser, start, verdict
from torch import Tensor, nn

from mmmanikey.visualization.output import write_text

#: Network, side of a window, and images, by the name of the case.
CASES = {
    'T 224 x 1': (SWIN_T, 7, (1, 3, 224, 224)),
    'T 224 x 8': (SWIN_T, 7, (8, 3, 224, 224)),
    'T 640 x 1': (SWIN_T, 7, (1, 3, 640, 640)),
    'T 800 x 1344 x 1': (SWIN_T, 7, (1, 3, 800, 1344)),
    'B, window 12, 384 x 2': (SWIN_B, 12, (2, 3, 384, 384)),
}
CUDA_CASES = {
    'T 224 x 64': (SWIN_T, 7, (64, 3, 224, 224)),
    'T 800 x 1344 x 2': (SWIN_T, 7, (2, 3, 800, 1344)),
    'B, window 12, 384 x 16': (SWIN_B, 12, (16, 3, 384, 384)),
}
QUICK_CASES = {
    'quick 32 x 2': (QUICK_SWIN, 2, (2, 3, 32, 32)),
    'quick 32 x 64 x 1': (QUICK_SWIN, 2, (1, 3, 32, 64)),
}
#: Of ``key=None`` over the fastest peer, forward and step.
LINEAR_BOUNDS = {
    'T 224 x 1': (1.00, 1.00),
    'T 224 x 8': (0.97, 0.98),
    'T 640 x 1': (0.97, 0.97),
    'T 800 x 1344 x 1': (0.97, 0.95),
    'B, window 12, 384 x 2': (0.97, 0.98),
}
#: Of what a key adds over its floor.
FLOOR_BOUNDS = dict.fromkeys(CASES, 1.05) | {'T 224 x 1': 1.10}
#: Of what SpatialK keeps for the backward pass over mmdet's stock network.
SAVED_BOUND = 0.85
#: Of SpatialK in bfloat16 on CUDA over the fastest peer, or the one that needs least.
CUDA_BOUNDS = dict(forward=1.10, step=1.15, peak=0.90)
WHAT = ('forward', 'step')


def build(name: str, case: tuple) -> nn.Module:
    """The network of that name for a case."""
    arch, window, shape = case
    if name in KEYS:
        return ours(arch, key_of(name), window)
    return peer(name, arch, window, shape[2:])


def measure_case(
    title: str, case: tuple, setting: Setting, names: list[str], compiled: bool = False
) -> list[dict]:
    """Measure networks in one case, call by call in turn.

    Args:
        title (str): For the table.
        case (tuple): Network, side of a window, and shape of the images.
        setting (Setting): Where and how.
        names (list[str]): Of the networks.
        compiled (bool): Whether torch.compile runs them. Defaults to False.

    Returns:
        list[dict]: A row for each network and quantity.
    """
    arch, window, shape = case
    on_cuda = setting.device.type == 'cuda'
    peers = [name for name in names if name in PEERS]
    images = torch.randn(shape, device=setting.device)
    models = {name: build(name, case).to(setting.device) for name in names}
    if compiled:
        models = {name: torch.compile(model) for name, model in models.items()}
    floors = {
        key: floor(key, arch, window, images.to(setting.dtype))
        for key in names
        if key in KEYS and key != LINEAR and not on_cuda
    }

    def loss(model: nn.Module) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with setting.autocast():
                return sum(out.float().mean() for out in model(images))

        return call

    rows = []
    for what in WHAT:
        progress(f'{title}: {what}')
        learns = what == 'step'
        calls = {}
        for name, model in models.items():
            model.train(learns)
            call = loss(model)
            calls[name] = measure.step(call, model) if learns else torch.no_grad()(call)
        calls |= {floor_of(key): each[what] for key, each in floors.items()}
        seconds = measure.compare(calls, setting.rounds)
        rows += timed_rows(title, what, seconds, peers, setting)
        if on_cuda:
            busy = {name: [measure.busy_seconds(calls[name])] for name in models}
            rows += timed_rows(title, f'{what}, GPU busy', busy, peers, setting)
    counts = {}
    if on_cuda:
        counts['peak'] = {n: measure.peak_bytes(m, calls[n]) for n, m in models.items()}
    if not compiled:
        progress(f'{title}: saved bytes')
        counts['saved'] = {
            name: measure.saved_bytes(m, loss(m)) for name, m in models.items()
        }
    for what, found in counts.items():
        rows += counted_rows(title, what, found, peers, setting)
    return rows


def timed_rows(
    title: str,
    what: str,
    seconds: dict[str, list[float]],
    peers: list[str],
    setting: Setting,
) -> list[dict]:
    """Rows of one quantity in one case.

    Args:
        title (str): Of the case.
        what (str): 'forward' or 'step', or the time of it that a GPU works.
        seconds (dict[str, list[float]]): By network, and by :func:`floor_of` a key.
        peers (list[str]): Those that ours are compared with.
        setting (Setting): Whether bounds are for this.
    """
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    fastest = min(peers, key=medians.get, default=None)
    rows = []
    for name in (*PEERS, *KEYS):
        if name not in seconds:
            continue
        times = seconds[name]
        over = {
            each: spread([one / other for one, other in zip(times, seconds[each])])
            for each in peers
            if each != name
        }
        bound = None
        if name == LINEAR and setting.bounded and peers:
            most = LINEAR_BOUNDS[title][WHAT.index(what)]
            bound = dict(over=fastest, bound=most)
        elif floor_of(name) in seconds and LINEAR in seconds:
            rounds = zip(times, seconds[LINEAR], seconds[floor_of(name)])
            added = [(one - linear) / least for one, linear, least in rounds]
            over['floor'] = spread(added)
            if setting.bounded:
                bound = dict(over='floor', bound=FLOOR_BOUNDS[title])
        elif name == 'SpatialK' and bounded_on_cuda(setting) and what in WHAT and peers:
            bound = dict(over=fastest, bound=CUDA_BOUNDS[what])
        rows.append(row_of(title, name, what, medians[name], over, bound))
    return rows


def counted_rows(
    title: str, what: str, found: dict[str, int], peers: list[str], setting: Setting
) -> list[dict]:
    """Rows of bytes, 'saved' or 'peak', in one case."""
    least = min(peers, key=found.get, default=None)
    rows = []
    for name, value in found.items():
        over = {each: spread([value / found[each]]) for each in peers if each != name}
        bound = None
        if name == 'SpatialK' and what == 'saved':
            if setting.bounded and STOCK in peers:
                bound = dict(over=STOCK, bound=SAVED_BOUND)
        elif name == 'SpatialK' and bounded_on_cuda(setting) and peers:
            bound = dict(over=least, bound=CUDA_BOUNDS[what])
        rows.append(row_of(title, name, what, value, over, bound))
    return rows


def bounded_on_cuda(setting: Setting) -> bool:
    """Whether the bounds of bfloat16 on CUDA are for this."""
    on_cuda = setting.device.type == 'cuda'
    return on_cuda and setting.dtype == torch.bfloat16 and not setting.quick


def floor_of(key: str) -> str:
    return f'floor of {key}'


def row_of(
    title: str,
    name: str,
    what: str,
    value: float,
    over: dict[str, list[float]],
    bound: dict | None,
) -> dict:
    """A row: its value, and medians and quartiles of its ratios."""
    return dict(case=title, model=name, what=what, value=value, over=over, bound=bound)


def spread(ratios: list[float]) -> list[float]:
    """Median, lower and upper quartile; of one ratio the ratio alone."""
    if len(ratios) == 1:
        return ratios
    low, middle, high = statistics.quantiles(ratios, method='inclusive')
    return [middle, low, high]


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table, with a column for each peer and for the floor."""
    found = {each for row in rows for each in row['over']}
    columns = [each for each in (*PEERS, 'floor') if each in found]
    lines = [('case', 'network', 'what', 'median or bytes', *columns, 'bound')]
    for row in rows:
        is_size = row['what'] in BYTES
        value = f'{row["value"] / 1e6:.2f} MB' if is_size else f'{row["value"]:.4f} s'
        ratios = (cell(row['over'].get(column)) for column in columns)
        lines.append(
            (row['case'], row['model'], row['what'], value, *ratios, judged(row))
        )
    return align(lines)


def cell(ratio: list[float] | None) -> str:
    if ratio is None:
        return ''
    quartiles = f' ({ratio[1]:.2f} to {ratio[2]:.2f})' if len(ratio) > 1 else ''
    return f'{ratio[0]:.2f}{quartiles}'


def judged(row: dict) -> str:
    """The bound of a row, and whether it is reached."""
    if row['bound'] is None:
        return ''
    over, bound = row['bound']['over'], row['bound']['bound']
    return f'{verdict(row["over"][over][0], bound)}: {bound:.2f} over {over}'


def progress(text: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {text}', file=sys.stderr, flush=True)


def done_before(path: Path | None, conditions: dict) -> list[dict]:
    """Rows of the cases that a file holds, from a run under the same conditions.

    Raises:
        ValueError: If it is no such file.
    """
    if path is None or not path.exists():
        raise ValueError(f'--resume goes on with the file of --json, got {path}')
    try:
        result = json.loads(path.read_text())
        rows, found = result['rows'], result['conditions']
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no result of peers.py: {error}') from error
    changed = [name for name in conditions if found.get(name) != conditions[name]]
    if changed:
        raise ValueError(
            f'{path} was measured under other conditions ({", ".join(changed)}): name '
            'another file, or start again without --resume'
        )
    return rows


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--cases',
        nargs='+',
        metavar='CASE',
        help=f'of {[*CASES]}, on CUDA of {[*CUDA_CASES]}',
    )
    parser.add_argument(
        '--networks',
        nargs='+',
        metavar='NAME',
        choices=(*installed_peers(), *KEYS),
        default=[*installed_peers(), *KEYS],
        help=f'of {[*installed_peers(), *KEYS]}',
    )
    parser.add_argument(
        '--compile', action='store_true', help='measure compiled networks'
    )
    parser.add_argument(
        '--matmul-precision',
        choices=('highest', 'high'),
        default='highest',
        help="PyTorch's switch, for all networks; default: highest",
    )
    parser.add_argument(
        '--resume', action='store_true', help='keep the cases in the file of --json'
    )
    args, setting = start(parser)
    cases = CUDA_CASES if setting.device.type == 'cuda' else CASES
    cases = QUICK_CASES if setting.quick else cases
    wanted = args.cases or [*cases]
    unknown = [title for title in wanted if title not in cases]
    if unknown:
        parser.error(
            f'--cases: {unknown[0]!r} is none of {", ".join(map(repr, cases))}'
        )
    known = setting.conditions
    known |= dict(cores=os.cpu_count(), networks=args.networks, compiled=args.compile)
    known['matmul_precision'] = args.matmul_precision
    torch.set_float32_matmul_precision(args.matmul_precision)
    del known['matmul_macs_per_second']  # which differs from run to run
    try:
        rows = done_before(setting.json, known) if args.resume else []
    except ValueError as error:
        parser.error(str(error))
    done = {row['case'] for row in rows}
    for title in wanted:
        if title in done:
            progress(f'{title}: done before')
            continue
        rows += measure_case(
            *(title, cases[title], setting), args.networks, args.compile
        )
        if setting.json:
            result = dict(benchmark='peers', conditions=known, rows=rows)
            write_text(setting.json, json.dumps(result, indent=1))
    print(table(rows), end='\n\n')
    print(', '.join(f'{key} {value}' for key, value in known.items()))


if __name__ == '__main__':
    main()
