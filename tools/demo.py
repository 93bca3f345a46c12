"""Everything once, small: digits, pretraining, detection, metrics, pictures.

    python tools/demo.py

A nano Swin with SpatialK learns to classify single digits with mmpretrain; mmdet's Mask
R-CNN starts from it and learns to find and segment digits. On two CPU cores this takes
some minutes. What is done is not done again: after an interruption, or with nothing
changed, a second run goes on from there.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs/demo'
PRETRAIN = CONFIGS / 'pretrain_swin_nano_spatialk.py'
DETECTOR = CONFIGS / 'mask_rcnn_swin_nano_spatialk.py'
DATA = Path('data/digits')
WORK = Path('work_dirs/demo')
QUICK_SIZES = [
    '--train-images=8',
    '--val-images=4',
    '--train-crops=64',
    '--val-crops=20',
]
TARGETS = {'top-1': 0.97, 'bbox_mAP': 0.75, 'segm_mAP': 0.80}

# The lines of a training's log that are shown.
TRAIN = re.compile(
    r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+/\d+)\].*eta: (\S+).* loss: (\S+)'
)
LAUNCHER_ERROR = re.compile(r'[EW]\d{4} .* failed \(exitcode')  # says nothing new
METRIC = re.compile(r'(?:accuracy|coco)/(top1|bbox_mAP|segm_mAP): ([\d.]+)')


class StageError(Exception):
    """A stage of the demo failed."""


@dataclass
class Stage:
    """A command with a log, and a note of whether it is done.

    Args:
        name (str): Name of its folder, log and note below the work dir.
        title (str): What to call it.
        command (list): The command, starting with 'python' or a script.
        depends (str): What determines the result, besides the command.
    """

    name: str
    title: str
    command: list
    depends: str = ''
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.command = [str(word) for word in self.command]
        self.folder = WORK / self.name
        self.log = WORK / f'{self.name}.log'
        self.note = WORK / f'{self.name}.json'
        parts = [*self.command, self.depends]
        self.fingerprint = hashlib.sha256('\n'.join(parts).encode()).hexdigest()

    def run(self) -> None:
        """Run the command unless it is done already.

        Raises:
            StageError: If it fails.
        """
        note = json.loads(self.note.read_text()) if self.note.is_file() else {}
        if note.get('fingerprint') != self.fingerprint:
            set_aside(self.folder)
            note = {}
        self.seconds = note.get('seconds', 0.0)
        if note.get('done'):
            print(f'\n{self.title}: done before, nothing changed')
            return
        print(f'\n{self.title}\n  {" ".join(self.command)}', flush=True)
        self.write_note(done=False)
        started = time.monotonic()
        try:
            self.execute()
        finally:
            self.seconds += time.monotonic() - started
            self.write_note(done=False)
        self.write_note(done=True)

    def write_note(self, done: bool) -> None:
        note = dict(fingerprint=self.fingerprint, seconds=self.seconds, done=done)
        WORK.mkdir(parents=True, exist_ok=True)
        self.note.write_text(json.dumps(note) + '\n')

    def execute(self) -> None:
        """Run the command: all output to the log, the gist of it to the screen."""
        # Threads that wait must not spin: on two cores they would keep the data
        # loader, and each other, from working.
        env = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ, 'PYTHON': sys.executable}
        paths = [str(ROOT), env.get('PYTHONPATH')]
        env['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
        lines = []
        with (
            self.log.open('a', buffering=1) as log,
            subprocess.Popen(
                [sys.executable if w == 'python' else w for w in self.command],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
            ) as process,
        ):
            try:
                for line in process.stdout:
                    log.write(line)
                    show(line)
                    if not lines or not LAUNCHER_ERROR.match(lines[-1]):
                        lines = [*lines[-14:], line]
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise StageError(
                f'{"".join(lines)}\n{self.title}: failed with status '
                f'{process.returncode}. The whole log is {self.log}'
            )


def set_aside(folder: Path) -> None:
    """Keep an outdated result under another name, in place of an older one."""
    if folder.exists():
        previous = folder.with_name(f'{folder.name}.previous')
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)


def show(line: str) -> None:
    """Print the gist of a log line: progress on a terminal, metrics always."""
    if match := TRAIN.search(line):
        if sys.stdout.isatty():
            epoch, step, left, loss = match.groups()
            text = f'  epoch {epoch}, step {step}, loss {loss}, {left} left'
            print(text.ljust(60), end='\r', flush=True)
    elif 'Epoch(' in line and (pairs := METRIC.findall(line)):
        epoch = re.search(r'\[(\d+)\]\[', line)
        after = f'after epoch {epoch[1]}: ' if 'Epoch(val)' in line else ''
        text = '  ' + after + ', '.join(f'{name} {value}' for name, value in pairs)
        print(text.ljust(60), flush=True)


def training(config: Path, batch_size: int) -> list:
    """Command of a training: on the CPU two processes do what one does on a GPU.

    Models this small gain little from more threads, and much from more processes.
    """
    import torch

    processes = 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)
    return [
        *(ROOT / 'tools/dist_train.sh', config, processes, '--resume'),
        *('--cfg-options', f'train_dataloader.batch_size={batch_size // processes}'),
    ]


def contents(*paths: Path) -> str:
    return '\n'.join(path.read_text() for path in paths)


def last_checkpoint(folder: Path) -> str:
    """Relative path of the last checkpoint that a training wrote."""
    return str(folder / Path((folder / 'last_checkpoint').read_text().strip()).name)


def run_demo(seed: int, scratch: bool, quick: bool) -> None:
    """Run the stages, then draw and report."""
    from analysis.demo_report import report  # imports much: after --help

    stages: list[Stage] = []

    def stage(*args) -> Stage:
        stages.append(Stage(*args))
        stages[-1].run()
        return stages[-1]

    stage(
        'data',
        'Data: handwritten digits on clutter',
        [
            'python',
            ROOT / 'tools/data/make_digits.py',
            '--out',
            DATA,
            *(QUICK_SIZES if quick else []),
        ],
        str(time.time()),  # it sees itself whether there is anything to do
    )
    common = [f'randomness.seed={seed}', *(['train_cfg.max_epochs=1'] if quick else [])]
    data = contents(DATA / 'digits.json', *sorted(CONFIGS.glob('_base_/*.py')))
    pretrain = stage(
        'pretrain',
        'Pretraining: classify single digits',
        [*training(PRETRAIN, 32), *common, '--work-dir', WORK / 'pretrain'],
        data + contents(PRETRAIN),
    )
    start = last_checkpoint(pretrain.folder)
    data += contents(PRETRAIN, DETECTOR)
    detection = [*training(DETECTOR, 4), *common]
    detector = stage(
        'detector',
        'Detection: find and segment digits, from the pretrained backbone',
        [*detection, f'model.backbone.init_cfg.checkpoint={start}']
        + ['--work-dir', WORK / 'detector'],
        data,
    )
    if scratch:
        stage(
            'scratch',
            'For comparison: the same detection from scratch',
            [
                *detection,
                'model.backbone.init_cfg=None',
                '--work-dir',
                WORK / 'scratch',
            ],
            data,
        )
    predictions = WORK / 'test/predictions.pkl'
    stage(
        'test',
        'Test: the detector on the val images',
        ['python', ROOT / 'tools/test.py', DETECTOR, last_checkpoint(detector.folder)]
        + ['--work-dir', WORK / 'test', '--out', predictions],
        data + detector.fingerprint,
    )
    seconds = {stage.name: stage.seconds for stage in stages}
    print('\n' + report(WORK, DATA / 'detection', predictions, seconds, TARGETS))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run the whole demo.')
    parser.add_argument(
        '--scratch',
        action='store_true',
        help='also train the detector from scratch, to compare',
    )
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument(
        '--folder',
        type=Path,
        help='where data/ and work_dirs/ go; by default the repository',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='a few images and one epoch, to see that everything runs; by default in '
        'work_dirs/quick',
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind: end the stage
    folder = args.folder or (ROOT / 'work_dirs/quick' if args.quick else ROOT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        run_demo(args.seed, args.scratch, args.quick)
    except (StageError, OSError) as error:
        print(f'\n{error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; run it again to go on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
