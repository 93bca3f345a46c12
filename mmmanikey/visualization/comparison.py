"""Trainings side by side: one row and one curve for each group of seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .scalars import curve

#: Validation metrics that are looked for, each the better the higher.
METRICS = (
    'coco/bbox_mAP',
    'coco/segm_mAP',
    'accuracy/top1',
    'accuracy/top5',
    'mIoU',
    'mAcc',
)


@dataclass
class Run:
    """One training.

    Args:
        path (str): Its folder.
        rows (list[dict]): What it logged, see :func:`.scalars.read_scalars`.
    """

    path: str
    rows: list[dict]

    def training(self) -> list[dict]:
        return [row for row in self.rows if 'loss' in row]

    def by_epoch(self) -> bool:
        return all('epoch' in row for row in self.training())

    def epochs(self) -> int | None:
        """The last epoch in which it logged; None if it counts iterations."""
        if not self.training() or not self.by_epoch():
            return None
        return max(row['epoch'] for row in self.training())

    def iterations(self) -> int | None:
        return max((row['step'] for row in self.training()), default=None)

    def iterations_per_epoch(self) -> float:
        """The least that its rows allow; exact where an epoch's last was logged."""
        return max(row['step'] / row['epoch'] for row in self.training())

    def training_curve(self, name: str, by_epoch: bool) -> tuple[list, list]:
        """A quantity of the training over epochs or iterations."""
        steps, values = curve(self.training(), name)
        if by_epoch and steps:
            length = self.iterations_per_epoch()
            steps = [step / length for step in steps]
        return steps, values

    def metric(self, name: str) -> tuple[list, list]:
        """A metric over epochs, or iterations where the training counts these."""
        return curve([row for row in self.rows if 'loss' not in row], name)

    def metric_curve(self, name: str, by_epoch: bool) -> tuple[list, list]:
        """A metric over epochs or iterations."""
        steps, values = self.metric(name)
        if self.by_epoch() and not by_epoch and self.training():
            length = self.iterations_per_epoch()
            steps = [step * length for step in steps]
        return steps, values

    def seconds(self) -> float | None:
        """Median of the logged times of an iteration, which mmengine smooths."""
        times = curve(self.training(), 'time')[1]
        return median(times) if times else None

    def memory(self) -> float | None:
        """Most memory logged, in MB; mmengine logs it on GPUs only."""
        return max(curve(self.training(), 'memory')[1], default=None)


Groups = Mapping[str, Sequence[Run]]


def metrics_of(groups: Groups, wanted: Sequence[str] = METRICS) -> list[str]:
    """Those of the wanted metrics that a run has."""
    runs = [run for group in groups.values() for run in group]
    return [name for name in wanted if any(run.metric(name)[0] for run in runs)]


def summary(groups: Groups, metrics: Sequence[str]) -> list[dict[str, object]]:
    """One row for each group.

    Returns:
        list[dict]: 'group', 'runs', and for every quantity the values of its runs as a
        list, without those of runs that lack it: the last and the best of each metric,
        'epochs', 'iterations', 's/iteration' and 'memory (MB)'.
    """
    return [
        dict(group=name, runs=len(runs))
        | {
            f'{which} {metric}': known(
                runs, lambda run, m=metric, p=pick: p(run.metric(m)[1])
            )
            for metric in metrics
            for which, pick in (('last', last), ('best', best))
        }
        | {
            'epochs': known(runs, Run.epochs),
            'iterations': known(runs, Run.iterations),
            's/iteration': known(runs, Run.seconds),
            'memory (MB)': known(runs, Run.memory),
        }
        for name, runs in groups.items()
    ]


def last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def best(values: Sequence[float]) -> float | None:
    return max(values, default=None)


def known(runs: Sequence[Run], measure: Callable[[Run], float | None]) -> list[float]:
    """The measure of every run that has it."""
    return [value for value in map(measure, runs) if value is not None]


def to_markdown(rows: Sequence[dict[str, object]]) -> str:
    """A table; several seeds as mean (least..most)."""
    names = list(rows[0])
    lines = [f'| {" | ".join(names)} |', '|---' + '|---:' * (len(names) - 1) + '|']
    for row in rows:
        cells = [
            in_words(value)
            if isinstance(value, list)
            else str(value).replace('|', '\\|')
            for value in row.values()
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def in_words(values: Sequence[float]) -> str:
    if not values:
        return '-'
    low, high = f'{min(values):.4g}', f'{max(values):.4g}'
    return low if low == high else f'{mean(values):.4g} ({low}..{high})'


def to_numbers(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows for a CSV file: mean, least and most of each quantity in columns."""
    result = []
    for row in rows:
        flat = {}
        for name, value in row.items():
            if not isinstance(value, list):
                flat[name] = value
                continue
            for kind, pick in (('mean', mean), ('min', min), ('max', max)):
                flat[f'{name} {kind}'] = pick(value) if value else ''
        result.append(flat)
    return result


def draw_comparison(groups: Groups, metrics: Sequence[str]) -> Figure:
    """Loss, metrics, time of an iteration and memory, a line for each group.

    Of several seeds the line is the mean and the band goes from the least to the most,
    as far as all of them got.
    """
    runs = [run for group in groups.values() for run in group]
    by_epoch = all(run.by_epoch() for run in runs if run.training())
    unit = 'epoch' if by_epoch else 'iteration'
    panels = {
        name: lambda run, name=name: run.training_curve(logged_name(name), by_epoch)
        for name in ('loss', 's/iteration', 'memory (MB)')
        if any(run.training_curve(logged_name(name), by_epoch)[0] for run in runs)
    }
    panels |= {
        name: lambda run, name=name: run.metric_curve(name, by_epoch)
        for name in metrics
    }
    columns = min(3, len(panels)) or 1
    lines = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(4.6 * columns, 3.4 * lines + 0.4), layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (name, get) in zip(axes, panels.items()):
        for number, group in enumerate(groups.values()):
            draw_band(ax, [get(run) for run in group], f'C{number % 10}')
        ax.set(title=name, xlabel=unit)
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [
        axes[0].plot([], [], color=f'C{number % 10}', label=name)[0]
        for number, name in enumerate(groups)
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=3, fontsize=8)
    return figure


def logged_name(panel: str) -> str:
    """Name of a panel's quantity in the logs."""
    return {'s/iteration': 'time', 'memory (MB)': 'memory'}.get(panel, panel)


def draw_band(ax: Axes, curves: Sequence[tuple[list, list]], colour: str) -> None:
    """Mean of the curves and the band between the least and the most."""
    curves = [(steps, values) for steps, values in curves if steps]
    if not curves:
        return
    start = max(steps[0] for steps, _ in curves)
    end = min(steps[-1] for steps, _ in curves)
    x = np.unique(np.concatenate([steps for steps, _ in curves]))
    x = x[(x >= start) & (x <= end)]
    values = np.stack([np.interp(x, *each) for each in curves])
    few = dict(marker='o', markersize=3) if len(x) <= 30 else {}
    ax.plot(x, values.mean(axis=0), color=colour, **few)
    if len(curves) > 1:
        ax.fill_between(
            x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, lw=0
        )
