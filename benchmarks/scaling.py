"""Scaling of SpatialK Swin-T: over charts, over resolution, over the batch.

    python benchmarks/scaling.py

Over charts a value compares with the straight line through those of 1 and 2 charts;
over resolution and batch with mmdet's Swin-T.
"""

from collections.abc import Sequence
from dataclasses import replace

from networks import PASSES, STOCK, contest, swin
from report import Row, Setting, finish, make_parser, positive, start

KEY = 'SpatialK'
LINE = 'line through 1 and 2'


def over_charts(charts: Sequence[int], pixels: int, setting: Setting) -> list[Row]:
    """Rows for each number of charts; 1 and 2 are measured in any case."""
    charts = sorted({1, 2, *charts})
    models = {name_of(count): swin(KEY, count, setting.quick) for count in charts}
    rows = contest('charts, Swin-T', models, (1, 3, pixels, pixels), setting)
    counts = {name_of(count): count for count in charts}
    rows = [replace(row, x=counts[row.model]) for row in rows]
    return [against_line(row, rows, setting.bounded) for row in rows]


def name_of(charts: int) -> str:
    return f'{KEY}, H = {charts}'


def against_line(row: Row, rows: list[Row], bounded: bool) -> Row:
    """The row with its ratio to the line, which times must not exceed."""
    one, two = (
        next(other for other in rows if (other.what, other.x) == (row.what, x))
        for x in (1, 2)
    )
    line = one.value + (two.value - one.value) * (row.x - 1)
    timed = row.what in PASSES
    return replace(
        row,
        against=LINE,
        ratio=row.value / line,
        quartiles=None,  # those were against one chart
        # MACs lie on their line
        mac_ratio=1.0 if timed else None,
        bound=1.0 if bounded and timed and row.x > 2 else None,
    )


def over_size(
    axis: str, shapes: dict[int, tuple[int, ...]], setting: Setting
) -> list[Row]:
    """Rows of both backbones for each shape of the images.

    Args:
        axis (str): What varies, for the table.
        shapes (dict[int, tuple[int, ...]]): By where they stand on the axis.
        setting (Setting): Where and how.

    Returns:
        list[Row]: See :func:`networks.contest`.
    """
    models = {name: swin(name, quick=setting.quick) for name in (STOCK, KEY)}
    return [
        replace(row, x=x)
        for x, shape in shapes.items()
        for row in contest(f'{axis}, Swin-T', models, shape, setting)
    ]


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    counts = dict(type=positive, nargs='*')
    parser.add_argument('--charts', default=[1, 2, 4, 8, 16], **counts)
    parser.add_argument(
        '--charts-pixels', type=positive, default=640, help='side of their image'
    )
    parser.add_argument('--pixels', default=[224, 448, 672], **counts)
    parser.add_argument('--batches', default=[2, 4], **counts)
    parser.add_argument(
        '--batch-pixels', type=positive, default=224, help='side of their images'
    )
    args, setting = start(parser)
    rows = over_charts(args.charts, args.charts_pixels, setting) if args.charts else []
    rows += over_size('pixels', {n: (1, 3, n, n) for n in args.pixels}, setting)
    side = args.batch_pixels
    rows += over_size('batch', {n: (n, 3, side, side) for n in args.batches}, setting)
    finish('scaling', rows, setting)


if __name__ == '__main__':
    main()
