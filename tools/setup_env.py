"""Sets up the virtual environment that `make demo` and `make test` use.

    python3 tools/setup_env.py --venv .venv --extra demo

The order matters: mmcv compiles its operators against the torch that it finds, so torch
comes first, mmcv is built without isolation, and its operators are tried afterwards.
Each step leaves a stamp in the environment, keyed by what it installs: an interrupted
set-up goes on where it stopped, and a complete one is left as it is.

Standard library only, in the syntax of Python 3.6, so that an old Python gets as far as
saying that it is too old.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST_TRIED = (3, 10), (3, 12)
HEARTBEAT = 30  # seconds

# On a machine whose GPU torch sees, the operators must run there too.
MMCV_WORKS = """
import os, torch
from mmcv.ops import RoIAlign, get_compiling_cuda_version, nms

if os.environ.get('FORCE_CUDA') == '1':
    assert get_compiling_cuda_version() != 'not available', 'no CUDA operators'
for device in ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']:
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9.0]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    assert nms(boxes, scores, 0.5)[1].tolist() == [0, 2], f'nms is wrong on {device}'
    image = torch.ones(1, 1, 8, 8, device=device)
    rois = torch.tensor([[0, 0, 0, 4, 4.0]], device=device)
    assert RoIAlign(2)(image, rois).eq(1).all(), f'RoIAlign is wrong on {device}'
"""

DOWNLOAD_FAILED = re.compile(
    r'No matching distribution|ConnectionError|Max retries|HTTP error|timed out'
    r'|name resolution|IncompleteRead|Connection broken|ProxyError|SSLError'
    r'|DO NOT MATCH THE HASHES'
)
BUILD_FAILED = re.compile(r'Failed building wheel|Failed to build|exited-with-error')

Step = namedtuple('Step', 'name title inputs action')


class SetupError(Exception):
    """What stopped the set-up and what to do, in one sentence."""


def check_python(version):
    """Raises SetupError if Python is too old; says so if it is newer than tried."""
    found = '.'.join(str(part) for part in version[:3])
    if tuple(version[:2]) < OLDEST:
        raise SetupError(
            f'Python 3.10 or newer is needed, but this is Python {found}; name another '
            'one, as in `make demo PYTHON=python3.11`.'
        )
    if tuple(version[:2]) > NEWEST_TRIED:
        print(f'Python {found} is newer than what was tried (3.10 to 3.12); going on.')


def check_compiler():
    """Raises SetupError unless a C++17 file that includes Python.h compiles."""
    compiler = shlex.split(os.environ.get('CXX') or 'c++')
    if not compiler or shutil.which(compiler[0]) is None:
        raise SetupError(
            f'the C++ compiler `{" ".join(compiler)}` that builds mmcv was not found; '
            'install one (on Debian or Ubuntu: `apt install g++`) or name it in CXX.'
        )
    include = '-I' + sysconfig.get_path('include')
    result = subprocess.run(
        compiler + ['-std=c++17', '-fsyntax-only', include, '-x', 'c++', '-'],
        input=b'#include <vector>\n#include <Python.h>\n',
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if result.returncode:
        complaint = last_line(result.stderr.decode(errors='replace'), 'error')
        raise SetupError(
            f'the C++ compiler `{" ".join(compiler)}` cannot build a Python extension '
            f'({complaint}); it needs C++17 and Python.h (on Debian or Ubuntu: '
            '`apt install g++ python3-dev`).'
        )


def has_gpu():
    """Whether CUDA operators are wanted: there is an NVIDIA GPU, or FORCE_CUDA=1."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', 'all') not in ('', '-1')
    driver = Path('/proc/driver/nvidia/version').exists() or shutil.which('nvidia-smi')
    return bool(visible and driver) or os.environ.get('FORCE_CUDA') == '1'


def check_cuda_compiler():
    """Raises SetupError on a machine with an NVIDIA GPU but without nvcc."""
    if not has_gpu():
        return
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    # Where torch looks for it.
    places = [home + '/bin/nvcc'] if home else ['nvcc', '/usr/local/cuda/bin/nvcc']
    if not any(shutil.which(place) for place in places):
        raise SetupError(
            'this machine has a GPU, but the CUDA compiler nvcc that builds the CUDA '
            'operators of mmcv was not found; install the CUDA toolkit, set CUDA_HOME, '
            'or set CUDA_VISIBLE_DEVICES to nothing to do without the GPU.'
        )


def last_line(text, word=''):
    """The last line that is not blank, of those with `word` in them where there are."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wanted = [line for line in lines if word.lower() in line.lower()]
    return (wanted or lines or ['it said nothing'])[-1]


def read_requirements(name):
    """The text of requirements/<name>.txt, with the files that it includes."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text()
    included = re.findall(r'^-r (\S+)\.txt', text, re.MULTILINE)
    return ''.join([text] + [read_requirements(other) for other in included])


def latest_output(log):
    """What the last command in a log wrote."""
    return log.read_text(errors='replace').rpartition('\n$ ')[2]


def explain_failure(title, log):
    """One sentence on why a command failed, from what it wrote."""
    text = latest_output(log)
    tail = '\n'.join(text.splitlines()[-60:])
    if 'No space left on device' in tail:
        reason = 'the disk is full; make room'
    elif BUILD_FAILED.search(tail):
        reason = f'building it failed ({last_line(text, "error:")}); mend that'
    elif DOWNLOAD_FAILED.search(tail):
        reason = f'a download failed ({last_line(tail, "error")}); check the network'
    else:
        reason = f'it failed ({last_line(tail, "error")}); mend that'
    return (
        f'{title}: {reason}, and run the same command again (finished steps are kept; '
        f'the full log is {log}).'
    )


def elapsed(seconds):
    """A duration as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes} min {seconds:02d} s' if minutes else f'{seconds} s'


def progress(log):
    """What a running pip is at: the compiled share, or its last line."""
    text = latest_output(log)
    share = re.findall(r'^\s*\[(\d+)/(\d+)\]', text, re.MULTILINE)
    if share:
        return 'compiled {} of {} files'.format(*share[-1])
    return last_line(text)[:70]


class Environment:
    """A virtual environment and the stamps of what was set up in it."""

    def __init__(self, folder):
        self.folder = Path(folder).absolute()
        self.python = self.folder / 'bin' / 'python'
        self.state = self.folder / '.setup'

    def lock(self):
        """Waits until no other set-up works here; the lock ends with the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(str(self.folder), os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('Another set-up is at work here; waiting for it.', flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)

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
        """Runs a command with a sign of life each half minute, its output in a log."""
        log = self.state / (re.sub(r'\W+', '-', title) + '.log')
        environment = dict(os.environ, PYTHONUNBUFFERED='1')
        # Each compiler takes up to 2 GB; mmcv's own default is four of them or more.
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**31
        jobs = max(1, min(os.cpu_count() or 1, memory))
        environment.setdefault('MAX_JOBS', str(jobs))
        start = time.monotonic()
        with open(log, 'a') as output:
            output.write('\n$ {}\n'.format(' '.join(command)))
            output.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=str(ROOT),
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    try:
                        process.wait(HEARTBEAT)
                    except subprocess.TimeoutExpired:
                        at = elapsed(time.monotonic() - start)
                        print(f'      {at}: {progress(log)}', flush=True)
            except KeyboardInterrupt:
                # The whole session: pip's compilers must not go on alone.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        if process.returncode:
            raise SetupError(explain_failure(title, log))

    def pip(self, title, *arguments):
        """Runs pip with the user's own PIP_* settings."""
        self.run([str(self.python), '-m', 'pip'] + list(arguments), title)

    def install(self, name, works=None, repair=()):
        """Installs requirements/<name>.txt and tries it.

        Args:
            name: The requirement file.
            works: Code that fails if what was installed is not usable.
            repair: Calls of pip that then replace it; by default, the same again.
        """
        file = f'requirements/{name}.txt'
        install = ['install', '--no-build-isolation', '-r', file]
        self.pip(name, *install, *(['-v'] if name == 'mmcv' else []))
        complaint = self.why_fails(works) if works else ''
        if not complaint:
            return
        print(f'      does not work ({complaint}): installing it again', flush=True)
        for arguments in repair or [install + ['--force-reinstall', '--no-deps']]:
            self.pip(name, *arguments)
        complaint = self.why_fails(works)
        if complaint:
            raise SetupError(
                f'{name} is installed but does not work ({complaint}); the full log is '
                f'{self.state / name}.log.'
            )

    def install_mmcv(self):
        """Installs mmcv; one that was built for another torch is compiled anew."""
        pin = re.search(r'^onedl-mmcv==.+$', read_requirements('mmcv'), re.M).group()
        again = ['install', '--no-build-isolation', '-v', '--no-cache-dir', '--no-deps']
        again += ['--force-reinstall', '--no-binary', 'onedl-mmcv', pin]
        self.install('mmcv', MMCV_WORKS, [['uninstall', '-y', 'onedl-mmcv'], again])

    def install_project(self):
        """Makes this checkout importable."""
        self.pip('project', 'install', '--no-build-isolation', '--no-deps', '-e', '.')


def digest(step):
    """What a step's stamp holds: a hash of what it installs."""
    return hashlib.sha256('\0'.join(step.inputs).encode()).hexdigest()


def plan(env, extra):
    """The steps, in order, that set up an environment with an extra's requirements."""

    def packages(name, title, works=None):
        inputs = [read_requirements(name)]
        return Step(name, title, inputs, lambda: env.install(name, works))

    create = Step('venv', f'virtual environment in {env.folder}', [], env.create)
    tools = packages(extra, f'packages of requirements/{extra}.txt')
    if extra == 'lint':
        return [create, tools]
    # mmcv is built for one torch, and with or without CUDA.
    mmcv = [read_requirements('mmcv'), read_requirements('torch'), str(has_gpu())]
    mmcv_title = 'mmengine and mmcv (without a wheel: about 12 minutes on two cores)'
    described = ('setup.py', 'pyproject.toml', 'mmmanikey/version.py')
    project = [str(ROOT)] + [(ROOT / name).read_text() for name in described]
    return [
        create,
        packages('build', 'build tools'),
        packages(
            'torch', 'torch and torchvision (a large download)', 'import torchvision'
        ),
        Step('mmcv', mmcv_title, mmcv, env.install_mmcv),
        packages('mm', 'mmdet, mmpretrain, mmseg', 'import mmdet, mmpretrain, mmseg'),
        tools,
        Step('project', 'this checkout, editable', project, env.install_project),
    ]


def set_up(folder, extra):
    """Does what is left to do in an environment, step by step."""
    env = Environment(folder)
    env.lock()
    steps = plan(env, extra)
    left = [step for step in steps if not env.done(step)]
    if not left:
        print(f'{env.folder} is set up for `{extra}`.')
        return
    # Before the large downloads, not after them.
    if any(step.name == 'mmcv' for step in left) and env.why_fails(MMCV_WORKS):
        check_compiler()
        check_cuda_compiler()
    for number, step in enumerate(left, 1):
        start = time.monotonic()
        print(f'[{number}/{len(left)}] {step.title}', flush=True)
        step.action()
        env.mark_done(step)
        print(f'      done in {elapsed(time.monotonic() - start)}', flush=True)


def status_of(action):
    """Runs an action; its exit status, after a sentence where it was stopped."""
    try:
        return action() or 0
    except SetupError as error:
        print(f'Set-up stopped: {error}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'Set-up stopped by the system: {error}.', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('Set-up interrupted; the same command resumes it.', file=sys.stderr)
        return 130


def main(arguments=None):
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', default='.venv', help='folder of the environment')
    extras = ('demo', 'test', 'docs', 'dev', 'lint')
    parser.add_argument('--extra', default='dev', choices=extras, help='for what')
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)

    def action():
        check_python(sys.version_info)
        set_up(options.venv, options.extra)

    return status_of(action)


if __name__ == '__main__':
    sys.exit(main())
