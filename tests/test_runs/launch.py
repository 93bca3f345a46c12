"""Scripts as processes of their own, to which an accident happens at a chosen point.

Each runs in a process group of its own. They are forked from one fresh process that has
imported the frameworks, which takes longer than the smallest trainings.
"""

import builtins
import io
import multiprocessing
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import done_once
import torch
from torch.optim import AdamW

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['mmdet.apis', 'mmdet.models', 'mmpretrain.models'])


def launch(
    folder: Path, script: str, *args, accident: Callable | None = None
) -> tuple[int, str]:
    """Run a script of ours in ``folder``; its exit status and what it printed."""
    log = folder / 'printed.txt'
    argv = [str(ROOT / script), *map(str, args)]
    process = CONTEXT.Process(target=run, args=(folder, log, argv, accident))
    process.start()
    process.join()
    return process.exitcode, log.read_text()


def run(folder: Path, log: Path, argv: list[str], accident: Callable | None) -> None:
    os.setsid()
    os.chdir(folder)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, sys.stdout.fileno())
    os.dup2(printed, sys.stderr.fileno())
    # equal to the last bit: no GPU, and one order of summation
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    torch.set_num_threads(1)
    done_once.install()
    if accident:
        accident()
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    runpy.run_path(argv[0], run_name='__main__')


def die() -> None:
    """No process of the group gets to do anything more."""
    os.killpg(0, signal.SIGKILL)


def die_in_step(number: int) -> None:
    """Die in an iteration, with gradients that are computed and not yet applied."""
    step, steps = AdamW.step, count(1)

    def dying_step(self, *args, **kwargs):
        if next(steps) == number:
            die()
        return step(self, *args, **kwargs)

    AdamW.step = dying_step


def die_writing(name: str, time: int = 1) -> None:
    """Die when half of a file's content is written, the ``time``-th time it is."""
    real, times = io.open, count(1)

    class Torn(io.FileIO):
        def write(self, content):
            content = content.encode() if isinstance(content, str) else content
            super().write(memoryview(content)[: len(content) // 2])
            die()

    def tearing_open(file, mode='r', *args, **kwargs):
        if name in str(file) and 'w' in mode and next(times) == time:
            return Torn(file, mode)
        return real(file, mode, *args, **kwargs)

    # pathlib calls the one, everybody else the other
    io.open = builtins.open = tearing_open


def limit_files(size: int) -> None:
    """No file can grow beyond ``size`` bytes: the system fails the write."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
