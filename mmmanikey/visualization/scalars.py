"""What mmengine's trainings log: ``<work_dir>/<time>/vis_data/scalars.json``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path


def read_scalars(work_dir: Path) -> list[dict]:
    """What a training logged, in order: training rows, which have a loss, come last.

    A training that was resumed or begun again goes on in a new file; what the files
    before it logged from there on was lost with the interruption, and does not count.

    Args:
        work_dir (Path): Folder of the training.

    Returns:
        list[dict]: Rows as logged; empty if there are none.
    """
    rows: dict[tuple, dict] = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        new = list(read_rows(path))
        first = next((row for row in new if 'loss' in row), None)
        if first is not None:
            # validations count epochs where the training does, and else iterations
            start = {True: first['step'], False: first.get('epoch', first['step'])}
            rows = {key: row for key, row in rows.items() if key[1] < start[key[0]]}
        rows.update((('loss' in row, row['step']), row) for row in new)
    return [rows[key] for key in sorted(rows)]


def read_rows(path: Path) -> Iterator[dict]:
    """Rows of one file; one that was cut off in the writing is left out."""
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and 'step' in row:
            yield row


def curve(rows: Sequence[dict], name: str) -> tuple[list, list]:
    """Steps and values of one logged quantity."""
    picked = [(row['step'], row[name]) for row in rows if name in row]
    return [step for step, _ in picked], [value for _, value in picked]
