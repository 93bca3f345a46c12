"""What all benchmarks share: command line, rows, the table and the JSON file."""

import argparse
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from measure import conditions, product_rate

from mmmanikey.visualization.output import write_text

BYTES = ('saved', 'peak', 'resident')  # what is measured in bytes, not in seconds
HEAD = (
    *('case', 'model', 'what', 'median or bytes', 'ratio', 'quartiles', 'MAC ratio'),
    *('of matmul rate', 'bound', ''),
)


@dataclass
class Row:
    """One measured quantity of one model.

    Args:
        case (str): What was run; a table's rows of one case compare with each other.
        model (str): Which model or form.
        what (str): 'forward', 'step' and the like, in seconds; 'saved', 'peak' or
            'resident', in bytes.
        value (float): Median seconds, or bytes.
        against (str): What ``ratio`` and ``mac_ratio`` compare with.
        ratio (float, optional): Value over that of ``against``; for times the median
            over the rounds.
        mac_ratio (float, optional): Multiply-accumulates over those of ``against``.
        of_rate (float, optional): Multiply-accumulates per second, over those of a
            plain matrix product in the same run.
        bound (float, optional): Upper bound that the project sets itself.
        per_mac (bool): Whether the bound is on ratio over MAC ratio.
        x (float, optional): Where the row stands on a scaling curve.
        quartiles (tuple[float, float], optional): Lower and upper one of the ratios of
            the rounds.
    """

    case: str
    model: str
    what: str
    value: float
    against: str = ''
    ratio: float | None = None
    mac_ratio: float | None = None
    of_rate: float | None = None
    bound: float | None = None
    per_mac: bool = False
    x: float | None = None
    quartiles: tuple[float, float] | None = None

    @property
    def score(self) -> float | None:
        """What the bound is about."""
        return self.ratio / self.mac_ratio if self.per_mac else self.ratio

    def cells(self) -> tuple[str, ...]:
        reached = bound = ''
        if self.bound is not None:
            bound = f'<= {self.bound:.2f}{" per MAC" if self.per_mac else ""}'
            reached = f'{verdict(self.score, self.bound)} ({self.score:.2f})'
        value = (
            f'{self.value / 1e6:.2f} MB'
            if self.what in BYTES
            else f'{self.value * 1e3:.1f} ms'
        )
        return (
            *(self.case, self.model, self.what, value),
            number(self.ratio, f'x {self.against}'),
            ' to '.join(map(number, self.quartiles or ())),
            number(self.mac_ratio),
            number(self.of_rate),
            *(bound, reached),
        )


def number(value: float | None, unit: str = '') -> str:
    return '' if value is None else f'{value:.2f} {unit}'.strip()


def verdict(score: float, bound: float) -> str:
    """Whether a bound is reached, in a word."""
    return 'reached' if score <= bound else 'NOT reached'


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    return align([HEAD, *(row.cells() for row in rows)])


def align(lines: list[Sequence[str]]) -> str:
    """Lines of cells, the head first, as a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = [lines[0], ['-' * width for width in widths], *lines[1:]]
    return '\n'.join(
        f'| {" | ".join(cell.ljust(w) for cell, w in zip(line, widths))} |'
        for line in lines
    )


@dataclass
class Setting:
    """Where and how a benchmark measures."""

    device: torch.device
    dtype: torch.dtype
    rounds: int
    quick: bool
    json: Path | None
    rate: float = field(init=False)

    def __post_init__(self) -> None:
        self.rate = product_rate(self.device, self.dtype)

    def autocast(self) -> AbstractContextManager:
        """Autocast to ``dtype``; nothing for float32."""
        enabled = self.dtype != torch.float32
        dtype = self.dtype if enabled else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=enabled)

    @property
    def bounded(self) -> bool:
        """Whether the bounds, which are for float32 on a CPU, are for this."""
        on_cpu = self.device.type == 'cpu'
        return on_cpu and self.dtype == torch.float32 and not self.quick

    @property
    def conditions(self) -> dict:
        return conditions(
            self.device,
            dtype=str(self.dtype).removeprefix('torch.'),
            rounds=self.rounds,
            quick=self.quick,
            matmul_macs_per_second=self.rate,
        )


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument('--device', default='cuda' if cuda else 'cpu')
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16'),
        default='bfloat16' if cuda else 'float32',
        help='bfloat16 is autocast to it',
    )
    parser.add_argument('--threads', type=positive, default=2, help='on a CPU')
    parser.add_argument('--rounds', type=positive, default=5, help='calls per median')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the rows')
    parser.add_argument(
        '--quick',
        action='store_true',
        help='small networks and images: tries the script and measures nothing',
    )
    return parser


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return value


def start(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Setting]:
    """Parse, set threads and seed, and measure the rate of a matrix product."""
    args = parser.parse_args()
    try:
        device = torch.device(args.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        parser.error(f'--device {args.device!r} is not usable here: {reason}')
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    return args, Setting(device, dtype, args.rounds, args.quick, args.json)


def finish(name: str, rows: list[Row], setting: Setting) -> None:
    """Print the table with its conditions, and write the JSON file if it is asked for.

    Something else may have run when the rate of a matrix product was measured: it is
    measured once more, and the better one counts.

    Args:
        name (str): The benchmark's name.
        rows (list[Row]): What it measured.
        setting (Setting): How.
    """
    rate = max(setting.rate, product_rate(setting.device, setting.dtype))
    for row in rows:
        if row.of_rate is not None:
            row.of_rate *= setting.rate / rate
    setting.rate = rate
    result = dict(
        benchmark=name,
        conditions=setting.conditions,
        rows=[asdict(row) for row in rows],
    )
    print(table(rows), end='\n\n')
    print(', '.join(f'{key} {value}' for key, value in setting.conditions.items()))
    if setting.json:
        write_text(setting.json, json.dumps(result, indent=1))
