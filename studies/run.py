"""Do the runs of the study, some at a time, and go on after any interruption.

    python -m studies.run                     # all questions, two runs at a time
    python -m studies.run --questions 1 --backbones vit
    python -m studies.run --quick             # the whole way in some minutes

A run that has its result is not done again. One that was interrupted goes on from its
last epoch. Each run is a process of one thread; what it prints is in
``work_dirs/study/<run>.log``.
"""

import argparse
import fcntl
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .arms import BACKBONES, QUESTIONS, ROOT
from .data import find_fashion_mnist
from .jobs import (
    DETECTORS,
    WORK,
    Job,
    StudyError,
    all_jobs,
    best_key,
    read_result,
    weights_of,
)

SHORTER = 50  # how much less a quick run sees
#: glibc keeps the memory that a step frees for the next one: 6 % less time a step.
MALLOC = dict(
    MALLOC_MMAP_THRESHOLD_='2000000000',
    MALLOC_TRIM_THRESHOLD_='4000000000',
    MALLOC_TOP_PAD_='200000000',
)
SCENES = ('--train-images', '2000', '--val-images', '500')  # as the protocol says


@contextmanager
def alone() -> Iterator[None]:
    """Hold the queue; the lock goes with the process, however it ends.

    Raises:
        StudyError: If another process holds it.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / 'queue.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StudyError(
                f'another process runs the study in {WORK.resolve()}; wait for it'
            ) from error
        yield


def is_done(job: Job, jobs: list[Job]) -> bool:
    """Whether a run has its result, and its weights where another run needs them."""
    if read_result(job) is None:
        return False
    needed = any(
        other.pretraining
        and other.pretraining.name == job.name
        and read_result(other) is None
        for other in jobs
    )
    return not needed or weights_of(job).is_file()


def is_ready(job: Job) -> bool:
    """Whether all is there that a run needs."""
    if job.pretraining and not weights_of(job.pretraining).is_file():
        return False
    needs_best = 'best' in job.arm or job.arm in ('wide-params', 'wide-macs')
    needs_best = needs_best or job.arm == 'det-residual'
    return not needs_best or best_key(job.backbone) is not None


def start(job: Job, shorter: int) -> subprocess.Popen:
    """Start a run; its output goes to a log."""
    command = [sys.executable, '-m', 'studies.one', job.arm, job.backbone]
    command += [str(job.seed), '--shorter', str(shorter)]
    env = {'OMP_NUM_THREADS': '1', **MALLOC, **os.environ}
    env['PYTHONPATH'] = os.pathsep.join(
        filter(None, [str(ROOT.parent), env.get('PYTHONPATH')])
    )
    with (WORK / f'{job.name}.log').open('a') as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def last_lines(job: Job, count: int = 5) -> str:
    lines = (WORK / f'{job.name}.log').read_text(errors='replace').splitlines()
    return '\n'.join(lines[-count:])


def work_off(jobs: list[Job], processes: int, shorter: int) -> None:
    """Do what is not done, ``processes`` at a time, and say how it goes.

    Raises:
        StudyError: If a run fails.
    """
    shortened = shorter > 1
    waiting = [job for job in jobs if shortened or not is_done(job, jobs)]
    print(f'{len(jobs) - len(waiting)} of {len(jobs)} runs are done', flush=True)
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    seconds = []
    try:
        while waiting or running:
            if len(running) < processes:
                # once question 1 is answered, the best key's runs are there
                waiting = [
                    job for job in waiting if shortened or not is_done(job, jobs)
                ]
                ready = [job for job in waiting if shortened or is_ready(job)]
                for job in ready[: processes - len(running)]:
                    waiting.remove(job)
                    running[job] = start(job, shorter), time.monotonic()
            if not running:
                raise StudyError(
                    f'{waiting[0].name} needs what no run of these questions makes; '
                    'run question 1 as well'
                )
            time.sleep(0.2)
            for job in [job for job, (p, _) in running.items() if p.poll() is not None]:
                process, started = running.pop(job)
                if process.returncode:
                    raise StudyError(
                        f'{last_lines(job)}\n{job.name} failed with status '
                        f'{process.returncode}; the whole log is {WORK / job.name}.log'
                    )
                seconds.append(time.monotonic() - started)
                left = (len(waiting) + len(running)) * statistics.median(seconds)
                done = len(jobs) - len(waiting) - len(running)
                print(
                    f'{job.name}: {seconds[-1] / 60:.1f} min; {done} of {len(jobs)} '
                    f'runs, about {left / processes / 3600:.1f} h left',
                    flush=True,
                )
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def make_scenes(source: Path) -> None:
    """Write the scenes of question 6 where they are not there yet.

    Raises:
        StudyError: If they cannot be written.
    """
    script = ROOT.parent / 'tools/data/make_garments.py'
    command = [sys.executable, script, '--source', source, '--out', 'data/garments']
    command += SCENES
    if subprocess.run(command).returncode:
        raise StudyError('the scenes of question 6 could not be written, see above')


def main() -> int:
    parser = argparse.ArgumentParser(description='Do the runs of the study.')
    parser.add_argument(
        '--questions', type=int, nargs='+', choices=QUESTIONS, default=list(QUESTIONS)
    )
    parser.add_argument(
        '--backbones', nargs='+', choices=BACKBONES, default=list(BACKBONES)
    )
    parser.add_argument('--processes', type=int, default=2, help='runs at a time')
    parser.add_argument(
        '--quick',
        action='store_true',
        help=f'one seed of question 1 on 1/{SHORTER} of the images, as a test of the '
        'whole way; its results count in no report',
    )
    args = parser.parse_args()
    if args.processes < 1:
        parser.error(f'--processes must be at least 1, got {args.processes}')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind: end the runs
    jobs = all_jobs((1,) if args.quick else tuple(args.questions))
    jobs = [job for job in jobs if job.backbone in args.backbones]
    if args.quick:
        jobs = [job for job in jobs if job.seed == 0]
    try:
        source = find_fashion_mnist()
        with alone():
            if any(job.arm in DETECTORS for job in jobs):
                make_scenes(source)
            work_off(jobs, args.processes, SHORTER if args.quick else 1)
    except (StudyError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted; run it again to go on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
