"""Write the study's page and figures from the results of its runs.

    python -m studies.report

writes ``docs/study.md`` and ``docs/images/study-<question>.png``. The same results
give the same page. A backbone of a question whose runs are not all there is reported as
open, with what is missing; nothing is computed from a part of its seeds.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import matplotlib

from mmmanikey.visualization.output import save_figure, write_text

from .arms import KEYS, LINEAR, QUESTIONS, ROOT, Question, split_arm
from .jobs import DETECTORS, Job, StudyError, best_key, jobs_of, read_result
from .paired import Comparison, compare, holm

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

PAGE = ROOT.parent / 'docs/study.md'
IMAGES = ROOT.parent / 'docs/images'
FRAME = ROOT / 'page.md'
PLACE = '<!-- question: {} -->'
HOURS_PLACE = '<!-- hours -->'
#: Measured steps; what was measured later, of which a file is not named so, is last.
STEPS = sorted(
    (ROOT.parent / 'benchmarks/results').glob('cuda-peers*.json'),
    key=lambda path: ('before' not in path.name, path.name),
)
#: Images seen by a run, the case of the benchmark, and the images of its step.
AT_SCALE = {
    'ImageNet-1k, 300 epochs': (300 * 1_281_167, 'T 224 x 64', 64),
    'ImageNet-100, 300 epochs': (300 * 126_689, 'T 224 x 64', 64),
    'COCO, 12 epochs': (12 * 117_266, 'T 800 x 1344 x 2', 2),
}
NAMES = {'swin': 'Swin', 'vit': 'ViT'}
#: Digits behind the point, in percent.
PERCENT = '{:.2f}'


def missing(number: int, backbone: str) -> list[Job]:
    """The runs of a question on a backbone that have no result."""
    jobs = (job for job in jobs_of(number) if job.backbone == backbone)
    return [job for job in jobs if read_result(job) is None]


def answered(number: int) -> list[str]:
    """The backbones on which all runs of a question are there."""
    backbones = QUESTIONS[number].backbones
    return [backbone for backbone in backbones if not missing(number, backbone)]


def values(question: Question, backbone: str, arm: str, metric: str) -> list[float]:
    """A metric of an arm in percent, by seed."""
    jobs = [Job(arm, backbone, seed) for seed in range(question.seeds)]
    return [100 * read_result(job)['metrics'][metric] for job in jobs]


def metrics_of(number: int) -> list[str]:
    return ['bbox mAP', 'segm mAP'] if number == 6 else ['top-1']


def other_of(question: Question, arm: str) -> str:
    """What an arm is compared with, on the same images."""
    _, images = split_arm(arm)
    return f'{question.against}-{images}' if images else question.against


def comparisons(
    number: int, backbone: str, metric: str
) -> dict[str, tuple[Comparison, float]]:
    """Each arm against its other, with Holm's p-value over the arms of the question."""
    question = QUESTIONS[number]
    found = {
        arm: compare(
            values(question, backbone, arm, metric),
            values(question, backbone, other_of(question, arm), metric),
        )
        for arm in question.arms
        if arm != other_of(question, arm)
    }
    adjusted = holm([comparison.p_value for comparison in found.values()])
    return {arm: (found[arm], p) for arm, p in zip(found, adjusted)}


def cost_cells(question: Question, backbone: str, arm: str) -> list[str]:
    """Parameters, multiply-accumulates, and the median over the seeds of a step.

    A compiled step is named so, as some runs were made before there was a compiled one.
    """
    jobs = [Job(arm, backbone, seed) for seed in range(question.seeds)]
    results = [read_result(job) for job in jobs]
    seconds = statistics.median(result['step_seconds'] for result in results)
    compiled = ['CompiledBackbone' in result['config'] for result in results]
    step = f'{1000 * seconds:.0f}' + ' (compiled)' * statistics.mode(compiled)
    if arm in DETECTORS:
        return ['–', '–', step]
    cost = results[0]['cost']
    return [f'{cost["params"] / 1e3:.0f}', f'{cost["macs"] / 1e6:.1f}', step]


def table(number: int) -> str:
    """The table of a question in Markdown, for the backbones that have all runs."""
    question = QUESTIONS[number]
    head = ['backbone', 'arm']
    for metric in metrics_of(number):
        head += [f'{metric}, mean (least to most)', 'difference', '95 % interval']
        head += ['p', 'p by Holm']
    head += ['parameters, k', 'MACs, M', 'step, ms']
    lines = [head, ['---'] * len(head)]
    for backbone in answered(number):
        against = {
            metric: comparisons(number, backbone, metric)
            for metric in metrics_of(number)
        }
        for arm in question.arms:
            cells = [NAMES[backbone], named(arm, backbone)]
            for metric in metrics_of(number):
                reached = values(question, backbone, arm, metric)
                cells.append(
                    f'{PERCENT.format(statistics.mean(reached))} '
                    f'({PERCENT.format(min(reached))} to '
                    f'{PERCENT.format(max(reached))})'
                )
                cells += comparison_cells(against[metric].get(arm))
            lines.append([*cells, *cost_cells(question, backbone, arm)])
    return markdown(lines)


def named(arm: str, backbone: str) -> str:
    """An arm's name, with the key that question 1 decided on."""
    best = best_key(backbone)
    return arm.replace('best', f'best ({best})') if best else arm


def comparison_cells(compared: tuple[Comparison, float] | None) -> list[str]:
    if compared is None:
        return ['–'] * 4
    comparison, adjusted = compared
    low, high = (f'{end:+.2f}' for end in (comparison.low, comparison.high))
    return [
        f'{comparison.mean:+.2f}',
        f'{low} to {high}',
        f'{comparison.p_value:.3f}',
        f'{adjusted:.3f}',
    ]


def draw(number: int) -> plt.Figure:
    """A point for every seed, paired ones joined, and the mean of each arm."""
    question, metrics = QUESTIONS[number], metrics_of(number)
    panels = [(b, m) for b in answered(number) for m in metrics]
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(4.4 * len(panels), 3.6),
        layout='constrained',
        squeeze=False,
    )
    for axis, (backbone, metric) in zip(axes[0], panels):
        rows = [values(question, backbone, arm, metric) for arm in question.arms]
        for paired in zip(*rows):
            axis.plot(range(len(rows)), paired, color='0.85', lw=0.8, zorder=1)
        for place, row in enumerate(rows):
            axis.scatter([place] * len(row), row, s=14, color='tab:blue', zorder=2)
            mean = statistics.mean(row)
            axis.plot([place - 0.25, place + 0.25], [mean] * 2, 'k', lw=1.5, zorder=3)
        labels = [named(arm, backbone) for arm in question.arms]
        axis.set_xticks(range(len(rows)), labels, rotation=30, ha='right', fontsize=8)
        axis.set_title(f'{NAMES[backbone]}, {metric} in %', fontsize=9)
        axis.tick_params(axis='y', labelsize=8)
    return figure


def section(number: int) -> str:
    """What the page says of a question."""
    question, said = QUESTIONS[number], []
    if answered(number):
        said = [table(number), f'![{question.title}](images/study-{number}.png)']
    for backbone in question.backbones:
        if lacking := len(missing(number, backbone)):
            total = question.seeds * len(question.arms)
            said.append(
                f'Open on {NAMES[backbone]}: {lacking} of {total} runs have no result '
                f'yet. `python -m studies.run --questions {number} --backbones '
                f'{backbone}` does them.'
            )
    return '\n\n'.join(said)


def hours() -> str:
    """GPU hours of runs at scale in Markdown, from the measured steps."""
    steps = {
        (row['case'], row['model']): row['value']
        for path in STEPS
        for row in json.loads(path.read_text())['rows']
        if row['what'] == 'step'
    }
    lines = [['', LINEAR, *KEYS], ['---'] * (2 + len(KEYS))]
    for name, (images, case, batch) in AT_SCALE.items():
        seconds = (images / batch * steps[case, key] for key in ('key=None', *KEYS))
        lines.append([name, *(f'{s / 3600:.0f}' for s in seconds)])
    return markdown(lines)


def markdown(lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def page() -> str:
    """The whole page."""
    text = FRAME.read_text()
    for number in QUESTIONS:
        place = PLACE.format(number)
        if text.count(place) != 1:
            raise StudyError(f'{FRAME} must have {place!r} once')
        text = text.replace(place, section(number))
    return text.replace(HOURS_PLACE, hours())


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the study's page and figures.")
    parser.add_argument('--out', type=Path, default=PAGE, help='default: docs/study.md')
    args = parser.parse_args()
    try:
        write_text(args.out, page())
        for number in QUESTIONS:
            if answered(number):
                save_figure(draw(number), IMAGES / f'study-{number}.png')
    except (StudyError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
