"""A long training of the nano detector: does it grow, leak handles or keep too much?

    python benchmarks/soak.py

Every epoch ends with a checkpoint and a validation, after which memory, tensors, open
file handles, child processes and checkpoints are counted. By default that is 2,000
iterations, a check every 200. It ends with status 1 if anything is not flat.

Memory is what is resident once garbage is collected and the C library has given free
pages back. Without that it goes up and down with what the library keeps in store.
What still comes, at validations, is for the most part programs that oneDNN compiles for
numbers of objects it has not seen, and keeps, up to ``ONEDNN_PRIMITIVE_CACHE_CAPACITY``
(1,024). So memory, unlike the rest, is flat within a tolerance, ``GROWTH``: more than
the 0.7 % that a run gains without a leak, and what 15 kB an iteration would come to.
"""

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measure import conditions
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from report import positive

from mmmanikey.engine.cli import drop_pretrained
from mmmanikey.visualization.output import write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/demo/mask_rcnn_swin_nano_spatialk.py'
KEEP = 2  # checkpoints
WARM_UP = 0.2  # share of the checks in which memory may still grow
GROWTH = 0.02  # of memory, from the first to the last check, that counts as noise


@dataclass
class Check:
    """What was counted after a validation.

    Args:
        iterations (int): Iterations done.
        memory (int): Resident bytes of this process, see above.
        tensors (int): Its tensors that Python knows of.
        handles (int): Its open file handles.
        children (int): Its child processes.
        checkpoints (int): Checkpoints in the work dir, whole or not.
    """

    iterations: int
    memory: int
    tensors: int
    handles: int
    children: int
    checkpoints: int


def count(iterations: int, folder: Path) -> Check:
    """Count now; the checkpoints are those in ``folder``."""
    gc.collect()
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return Check(
        iterations=iterations,
        memory=pages * resource.getpagesize(),
        tensors=sum(issubclass(type(it), torch.Tensor) for it in gc.get_objects()),
        handles=len(os.listdir('/proc/self/fd')),
        children=len(multiprocessing.active_children()),
        checkpoints=len(list(folder.glob('*.pth*'))),
    )


class CheckHook(Hook):
    """Counts after every validation."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.checks.append(count(runner.iter, Path(runner.work_dir)))
        print(self.checks[-1], flush=True)


def train(folder: Path, epochs: int, iterations: int) -> list[Check]:
    """Make data for epochs of ``iterations`` images and train; the checks."""
    data = folder / 'data'
    make = [sys.executable, ROOT / 'tools/data/make_digits.py', '--out', data]
    sizes = [f'--train-images={iterations}', '--val-images=20', '--train-crops=1']
    subprocess.run([*make, *sizes, '--val-crops=1'], check=True)

    cfg = Config.fromfile(CONFIG)
    cfg.work_dir = str(folder / 'run')
    drop_pretrained(cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f'{data}/detection/'
    cfg.val_evaluator.ann_file = f'{data}/detection/annotations/val.json'
    cfg.train_dataloader.batch_size = 1
    cfg.train_cfg.update(max_epochs=epochs, val_interval=1)
    cfg.default_hooks.checkpoint.max_keep_ckpts = KEEP
    runner = Runner.from_cfg(cfg)
    hook = CheckHook()
    runner.register_hook(hook)
    runner.train()
    return hook.checks


def growth(values: list[float]) -> float:
    """What a straight line through ``values`` gains over them, relative to their mean.

    >>> growth([10, 10, 10]), growth([9, 10, 11])
    (0.0, 0.2)
    """
    slope = statistics.linear_regression(range(len(values)), values).slope
    return slope * (len(values) - 1) / statistics.mean(values)


def complaints(checks: list[Check]) -> list[str]:
    """What is not flat, in sentences."""
    found = []
    for name in ('tensors', 'handles', 'children'):
        counts = [getattr(check, name) for check in checks]
        if len(set(counts)) > 1:
            found.append(f'{name} do not stay the same: {counts}')
    kept = [check.checkpoints for check in checks]
    if kept != [min(number, KEEP) for number in range(1, len(checks) + 1)]:
        found.append(f'checkpoints are not the last {KEEP}: {kept}')
    warm = [check.memory for check in checks[round(WARM_UP * len(checks)) :]]
    if len(warm) > 2 and growth(warm) > GROWTH:
        found.append(f'memory grows by {growth(warm):.1%}: {warm}')
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--folder', type=Path, default=Path('work_dirs/soak'))
    parser.add_argument('--epochs', type=positive, default=10)
    parser.add_argument('--iterations', type=positive, default=200, help='per epoch')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the checks')
    args = parser.parse_args()
    if (args.folder / 'run').exists():
        parser.error(f'{args.folder}/run exists: remove it or name another --folder')
    checks = train(args.folder.resolve(), args.epochs, args.iterations)
    if args.json:
        result = dict(
            benchmark='soak',
            conditions=conditions(torch.device('cpu')),
            checks=[asdict(check) for check in checks],
        )
        write_text(args.json, json.dumps(result, indent=1))
    found = complaints(checks)
    print('\n'.join(found) or 'flat')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
