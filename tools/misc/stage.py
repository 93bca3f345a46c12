"""A command of a longer job: run once, logged, resumed after an interruption."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The lines of a training's log that are shown.
TRAIN = re.compile(
    r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+/\d+)\].*eta: (\S+).* loss: (\S+)'
)
LAUNCHER_ERROR = re.compile(r'[EW]\d{4} .* failed \(exitcode')  # says nothing new
METRIC = re.compile(r'(?:accuracy/|coco/|\b)(top1|bbox_mAP|segm_mAP|mIoU): ([\d.]+)')


class StageError(Exception):
    """A stage failed."""


@dataclass
class Stage:
    """A command with a log, and a note of whether it is done.

    Args:
        folder (Path): What it writes; its log and note stand beside it.
        title (str): What to call it.
        command (list): The command, starting with 'python' or a script.
        depends (str): What determines the result, besides the command.
    """

    folder: Path
    title: str
    command: list
    depends: str = ''
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.command = [str(word) for word in self.command]
        self.log = self.folder.with_name(f'{self.folder.name}.log')
        self.note = self.folder.with_name(f'{self.folder.name}.json')
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
        self.note.parent.mkdir(parents=True, exist_ok=True)
        draft = self.note.with_suffix('.draft')
        draft.write_text(json.dumps(note) + '\n')
        draft.replace(self.note)

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
