"""Compare trainings: one table, and curves with seeds as bands.

    python tools/analysis/compare.py work_dirs/a work_dirs/b --out comparison
    python tools/analysis/compare.py --out comparison \
        --group linear='work_dirs/swin_t_seed*' \
        --group SpatialK='work_dirs/swin_t_spatialk_seed*'

writes compare.md, compare.csv and compare.png. Each folder is a row of its own; the
folders of a group are seeds of one thing, shown as mean (least..most). Resumed
trainings count once.
"""

import argparse
import csv
import glob
import io
from pathlib import Path

from mmmanikey.engine import cli
from mmmanikey.visualization.comparison import (
    METRICS,
    Run,
    draw_comparison,
    metrics_of,
    summary,
    to_markdown,
    to_numbers,
)
from mmmanikey.visualization.output import save_figure, write_text
from mmmanikey.visualization.scalars import read_scalars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='*', help='work dirs, a row each')
    parser.add_argument(
        '--group',
        action='append',
        default=[],
        metavar='NAME=GLOB',
        help='work dirs of several seeds, in quotes; repeat it for more groups',
    )
    parser.add_argument('--out', required=True, metavar='DIR', help='folder to write')
    parser.add_argument(
        '--metric',
        nargs='+',
        default=METRICS,
        help='validation metrics by their names in the logs, the higher the better; '
        f'default {" ".join(METRICS)}',
    )
    return parser.parse_intermixed_args()


def read_run(path: str) -> Run:
    """What one work dir logged."""
    if not Path(path).is_dir():
        raise cli.UsageError(f'work dir {path!r} does not exist')
    rows = read_scalars(Path(path))
    if not rows:
        raise cli.UsageError(f'{path!r} holds no */vis_data/scalars.json with values')
    return Run(path, rows)


def find_groups(args: argparse.Namespace) -> dict[str, list[Run]]:
    """The runs by the name of their row."""
    found = {}
    for path in args.work_dirs:
        found[str(Path(path))] = [path]
    for text in args.group:
        name, separator, pattern = text.partition('=')
        if not (name and separator and pattern):
            raise cli.UsageError(f'--group takes NAME=GLOB, got {text!r}')
        if name in found:
            raise cli.UsageError(f'--group {name!r} is named twice')
        found[name] = sorted(p for p in glob.glob(pattern) if Path(p).is_dir())
        if not found[name]:
            raise cli.UsageError(f'--group {name!r} matches no folder: {pattern!r}')
    if not found:
        raise cli.UsageError('name work dirs, or groups of them with --group NAME=GLOB')
    return {name: [read_run(path) for path in paths] for name, paths in found.items()}


def to_csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    args = parse_args()
    groups = find_groups(args)
    metrics = metrics_of(groups, args.metric)
    rows = summary(groups, metrics)
    folder = Path(args.out)
    write_text(folder / 'compare.md', to_markdown(rows))
    write_text(folder / 'compare.csv', to_csv(to_numbers(rows)))
    save_figure(draw_comparison(groups, metrics), folder / 'compare.png')
    print(to_markdown(rows))
    for name in ('compare.md', 'compare.csv', 'compare.png'):
        print(folder / name)


if __name__ == '__main__':
    cli.tool(main)
