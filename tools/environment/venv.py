"""A virtual environment that is set up in steps."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

from . import commands
from .commands import SetupError, elapsed, last_line

Step = namedtuple('Step', 'name title inputs action')


def digest(step):
    """What a step's stamp holds: a hash of what it installs."""
    return hashlib.sha256('\0'.join(step.inputs).encode()).hexdigest()


class Environment:
    """A virtual environment and the stamps of what was set up in it."""

    def __init__(self, folder):
        self.folder = Path(folder).absolute()
        self.python = self.folder / 'bin' / 'python'
        self.state = self.folder / '.setup'

    def lock(self):
        """Waits until no other set-up works here; the lock ends with the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        commands.lock(self.folder, 'Another set-up is at work here; waiting for it.')

    def done(self, step):
        """Whether the step was finished with the same inputs."""
        stamp = self.state / step.name
        same = stamp.exists() and stamp.read_text() == digest(step)
        return same and self.python.exists()

    def mark_done(self, step):
        """Writes the stamp, whole or not at all."""
        draft = self.state / (step.name + '.draft')
        draft.write_text(digest(step))
        os.replace(str(draft), str(self.state / step.name))

    def take(self, steps):
        """Does some steps, and keeps what is finished."""
        for number, step in enumerate(steps, 1):
            start = time.monotonic()
            print(f'[{number}/{len(steps)}] {step.title}', flush=True)
            step.action()
            self.mark_done(step)
            print(f'      done in {elapsed(time.monotonic() - start)}', flush=True)

    def create(self):
        """Makes the environment, or adopts one that the user made."""
        entries = list(self.folder.iterdir())
        if entries and not self.state.exists():
            if self.why_fails('import pip, sys; assert sys.version_info >= (3, 10)'):
                raise SetupError(
                    f'{self.folder} exists, but is no virtual environment with pip and '
                    'Python 3.10 or newer; remove it, or name another in VENV.'
                )
            self.state.mkdir()
            return
        if not importlib.util.find_spec('ensurepip'):  # Debian packs it apart
            raise SetupError(
                'this Python has no ensurepip, which makes virtual environments; '
                'install it (on Debian or Ubuntu: `apt install python3-venv`).'
            )
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(str(entry))
            else:
                entry.unlink()
        self.state.mkdir()
        self.run([sys.executable, '-m', 'venv', str(self.folder)], 'venv')

    def why_fails(self, code):
        """The last line that Python code complains with in the environment, or ''."""
        if not self.python.exists():
            return 'there is no Python yet'
        result = subprocess.run(
            [str(self.python), '-c', code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=str(self.folder),
        )
        complaint = result.stderr.decode(errors='replace')
        return last_line(complaint) if result.returncode else ''

    def run(self, command, title):
        """Runs a command with its output in a log of that title."""
        log = self.state / (re.sub(r'\W+', '-', title) + '.log')
        commands.run(command, title, log)

    def pip(self, title, *arguments):
        """Runs pip with the user's own PIP_* settings."""
        self.run([str(self.python), '-m', 'pip'] + list(arguments), title)

    def install(self, title, requirements, works=None):
        """Installs requirements, given as for pip, and tries them."""
        install = ['install', '--no-build-isolation'] + list(requirements)
        self.pip(title, *install)
        complaint = self.why_fails(works) if works else ''
        if not complaint:
            return
        print(f'      does not work ({complaint}): installing it again', flush=True)
        self.pip(title, *install, '--force-reinstall', '--no-deps')
        complaint = self.why_fails(works)
        if complaint:
            raise SetupError(
                f'{title} is installed but does not work ({complaint}); the full log '
                f'is {self.state / title}.log.'
            )

    def install_project(self):
        """Makes this checkout importable."""
        self.pip('project', 'install', '--no-build-isolation', '--no-deps', '-e', '.')
