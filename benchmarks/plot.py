"""Draw what the benchmarks wrote: ratios with their bounds, scaling and memory curves.

    python benchmarks/plot.py work_dirs/bench/cpu-*.json

Each FILE.json becomes FILE.png beside it.
"""

import argparse
import json
from pathlib import Path

import matplotlib
from report import BYTES, Row

from mmmanikey.visualization.output import save_figure

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

COLOURS = {True: 'tab:green', False: 'tab:red', None: 'tab:blue'}


def draw_ratios(rows: list[Row], title: str) -> plt.Figure:
    """A bar for each ratio, with its quartiles; a tick for each bound."""
    rows = [row for row in rows if row.score is not None]
    figure, ax = plt.subplots(figsize=(9, 1.6 + 0.26 * len(rows)), layout='constrained')
    for place, row in enumerate(rows):
        reached = None if row.bound is None else row.score <= row.bound
        ax.barh(place, row.score, color=COLOURS[reached], alpha=0.8)
        spread = [q * row.score / row.ratio for q in row.quartiles or ()]
        ax.plot(spread, [place] * len(spread), color='0.3', lw=1)
        ax.annotate(
            f'{row.score:.2f}',
            (max(row.score, *spread, row.bound or 0), place),
            xytext=(3, 0),
            textcoords='offset points',
            va='center',
            fontsize=7,
        )
        if row.bound is not None:
            ax.plot([row.bound] * 2, [place - 0.45, place + 0.45], 'k', lw=2)
    ax.axvline(1, color='grey', lw=0.8, ls=':')
    ax.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=7)
    ax.invert_yaxis()
    ax.margins(x=0.08, y=0.01)
    # Of the figure: beside long labels the axes are narrower than these lines.
    figure.supxlabel(
        'ratio; grey: quartiles of the rounds; black: bound, green: reached, red: not',
        fontsize=10,
    )
    figure.suptitle(title, fontsize=8)
    return figure


def label(row: Row) -> str:
    per_mac = ' per MAC' if row.per_mac else ''
    return f'{row.case}, {row.model}: {row.what} / {row.against}{per_mac}'


def draw_curves(rows: list[Row], title: str) -> plt.Figure:
    """Each quantity over what scales; the line through 1 and 2 where there is one."""
    axes_names = list(dict.fromkeys(axis(row) for row in rows))
    quantities = list(dict.fromkeys(row.what for row in rows))
    figure, axes = plt.subplots(
        len(quantities),
        len(axes_names),
        figsize=(4 * len(axes_names), 3 * len(quantities)),
        layout='constrained',
        squeeze=False,
    )
    for row_of_axes, what in zip(axes, quantities):
        for ax, name in zip(row_of_axes, axes_names):
            draw_curve(
                ax, [row for row in rows if (axis(row), row.what) == (name, what)]
            )
            unit = 'MB' if what in BYTES else 'ms'
            ax.set(xlabel=name, ylabel=f'{what}, {unit}')
            ax.set_ylim(0, 1.1 * max(max(line.get_ydata()) for line in ax.lines))
            ax.set_xticks(ax.lines[0].get_xdata())
            if len(ax.get_xticks()) > 6:
                ax.tick_params(axis='x', labelrotation=45)
            ax.grid(alpha=0.3)
            ax.legend(fontsize=7)
    figure.suptitle(title, fontsize=8)
    return figure


def axis(row: Row) -> str:
    """What varies: the case begins with it."""
    return row.case.partition(',')[0]


def draw_curve(ax: plt.Axes, rows: list[Row]) -> None:
    """One quantity of each model that was measured along one axis."""
    rows = sorted(rows, key=lambda row: row.x)
    by_model: dict[str, list[Row]] = {}
    for row in rows:
        by_model.setdefault(row.model.partition(',')[0], []).append(row)
    for model, points in by_model.items():
        scale = 1e-6 if points[0].what in BYTES else 1e3
        places = [row.x for row in points]
        ax.plot(places, [row.value * scale for row in points], 'o-', label=model)
        if all(row.against.startswith('line') for row in points):
            line = [row.value / row.ratio * scale for row in points]
            ax.plot(places, line, 'k--', label=points[0].against)


def rows_of(result: dict) -> list[Row]:
    """What was measured; of a soak's checks the memory."""
    if result['benchmark'] != 'soak':
        return [Row(**row) for row in result['rows']]
    return [
        Row('iterations', 'soak', 'resident', check['memory'], x=check['iterations'])
        for check in result['checks']
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE.json')
    for path in parser.parse_args().files:
        try:
            result = json.loads(path.read_text())
            rows = rows_of(result)
            conditions = result['conditions']
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f'cannot read {str(path)!r} as a benchmark: {error}')
        names = ('device', 'threads', 'dtype', 'torch', 'mmdet', 'rounds')
        parts = (f'{name} {conditions[name]}' for name in names if name in conditions)
        title = f'{result["benchmark"]}: {", ".join(parts)}'
        curves = any(row.x is not None for row in rows)
        figure = (draw_curves if curves else draw_ratios)(rows, title)
        save_figure(figure, path.with_suffix('.png'), dpi=110)
        plt.close(figure)


if __name__ == '__main__':
    main()
