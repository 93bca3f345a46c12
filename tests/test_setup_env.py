"""The set-up script, run as make runs it, in a checkout and environment of straw.

The environment's Python is a shell script that notes its arguments and follows the
rules that a test gives it; nothing is downloaded or built.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loading import load_tool
from scripts import has_ended

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tools' / 'setup_env.py'
SHARED = ROOT / 'tools' / 'environment'

FAKE_PYTHON = """#!/bin/bash
cd "{folder}"
printf '%s\\n' "$*" | tr '\\n' ' ' >> calls
echo >> calls
. ./rules
exit 0
"""

REQUIREMENTS = {
    'build': 'wheel\n',
    'torch': 'torch==2.11.0\n',
    'runtime': 'numpy\ntorch>=2.1,<2.16\n',
    'mmcv': 'onedl-mmengine==0.10.12\nonedl-mmcv==2.3.6\n',
    'mm': '-r mmcv.txt\nonedl-mmdetection==3.5.1\n',
    'demo': 'matplotlib\n',
    'test': '-r demo.txt\npytest\n',
    'lint': '',
}


load_tool(SCRIPT)  # which makes the shared modules importable
from environment import commands, venv  # noqa: E402


class Checkout:
    """A checkout of straw and its environment.

    Args:
        folder: An empty folder to make it in.
    """

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / 'check out'
        self.venv = folder / 'an environment'
        self.environment = dict(os.environ, CXX='true')
        self.environment.pop('FORCE_CUDA', None)
        self.environment['CUDA_VISIBLE_DEVICES'] = ''
        for name in ('tools', 'requirements', 'mmmanikey'):
            (self.root / name).mkdir(parents=True)
        (self.root / 'tools' / 'setup_env.py').write_text(SCRIPT.read_text())
        (self.root / 'tools' / 'build_mmcv.py').touch()
        shutil.copytree(SHARED, self.root / 'tools' / 'environment')
        for name, text in REQUIREMENTS.items():
            (self.root / 'requirements' / f'{name}.txt').write_text(text)
        for name in ('setup.py', 'pyproject.toml', 'mmmanikey/version.py'):
            (self.root / name).touch()
        self.rules('')

    def fake_environment(self):
        """An environment that looks as if the user had made it."""
        python = self.venv / 'bin' / 'python'
        python.parent.mkdir(parents=True)
        python.write_text(FAKE_PYTHON.format(folder=self.folder))
        python.chmod(0o755)

    def rules(self, text):
        (self.folder / 'rules').write_text(text)

    def calls(self):
        """What pip and build_mmcv.py were called with since this was last asked."""
        path = self.folder / 'calls'
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        tools = f'{self.root}/tools/'
        lines = [
            line.strip().replace('-m pip ', '').replace(tools, '') for line in lines
        ]
        return [line for line in lines if line.startswith(('install', 'build_mmcv'))]

    def command(self, extra='test', *more):
        script = self.root / 'tools' / 'setup_env.py'
        options = ['--venv', str(self.venv), '--extra', extra, *more]
        return [sys.executable, str(script), *options]

    def run(self, extra='test', *more, status=0):
        """Runs the script and returns what it printed."""
        result = subprocess.run(
            self.command(extra, *more),
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == status, result.stdout + result.stderr
        assert 'Traceback' not in result.stderr
        if status:
            assert len(result.stderr.splitlines()) == 1
        return result.stdout + result.stderr


@pytest.fixture
def checkout(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.fake_environment()
    return checkout


def test_order(checkout):
    output = checkout.run()
    calls = checkout.calls()
    assert calls == [
        'install --no-build-isolation -r requirements/build.txt',
        'install --no-build-isolation -r requirements/torch.txt',
        'build_mmcv.py',
        'install --no-build-isolation -r requirements/mm.txt',
        'install --no-build-isolation -r requirements/test.txt',
        'install --no-build-isolation --no-deps -e .',
    ]
    assert '[7/7]' in output
    assert output.count('done in') == 7


def test_second_run_does_nothing(checkout):
    checkout.run()
    checkout.calls()
    assert checkout.run().endswith('is set up for `test`.\n')
    assert checkout.calls() == []


def test_changed_requirements_are_installed_alone(checkout):
    checkout.run()
    checkout.calls()
    # Through the file that includes it.
    (checkout.root / 'requirements' / 'demo.txt').write_text('matplotlib>=3.7\n')
    checkout.run()
    (call,) = checkout.calls()
    assert call.endswith('requirements/test.txt')


def test_moved_checkout_is_installed_anew(checkout):
    checkout.run()
    checkout.calls()
    checkout.root = checkout.root.rename(checkout.folder / 'moved')
    checkout.run()
    assert checkout.calls() == ['install --no-build-isolation --no-deps -e .']


def test_lint_needs_no_torch(checkout):
    checkout.run('lint')
    (call,) = checkout.calls()
    assert call.endswith('requirements/lint.txt')


def test_new_gpu_is_noticed(checkout):
    checkout.run()
    checkout.calls()
    checkout.environment['FORCE_CUDA'] = '1'
    checkout.run()
    assert checkout.calls() == ['build_mmcv.py']


@pytest.mark.parametrize(
    ('complaint', 'reason'),
    [
        (
            'ERROR: No matching distribution found for torch==2.11.0',
            'a download failed',
        ),
        ('urllib3.exceptions.ReadTimeoutError: Read timed out.', 'a download failed'),
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        ('ERROR: Failed building wheel for x', 'building it failed'),
        ('ERROR: something new', 'something new'),
    ],
)
def test_failed_install(checkout, complaint, reason):
    rule = f'[[ "$*" == *torch.txt ]] && {{ echo "{complaint}"; exit 1; }}'
    checkout.rules(rule)
    output = checkout.run(status=1).splitlines()[-1]
    assert output.startswith('Set-up stopped: torch: ')
    assert reason in output
    log = Path(output.split('full log is ')[1].rstrip(').'))
    assert complaint in log.read_text()


def test_failed_install_resumes(checkout):
    torch_fails = '[[ "$*" == *torch.txt ]] && {{ echo {}; exit 1; }}'
    checkout.rules(torch_fails.format('No space left on device'))
    assert 'the disk is full' in checkout.run(status=1)
    # The log is one, but the reason given is the last run's.
    checkout.rules(torch_fails.format('ConnectionError'))
    assert 'a download failed' in checkout.run(status=1)
    checkout.rules('')
    checkout.calls()
    checkout.run()
    assert 'torch.txt' in checkout.calls()[0]


def test_interrupted_set_up_resumes(checkout):
    """The signal ends pip and what pip started; the finished steps stay."""
    starts = 'sleep 60 & echo $! > draft; mv draft started; wait'
    checkout.rules(f'[[ "$*" == *torch.txt ]] && {{ {starts}; }}')
    process = subprocess.Popen(
        checkout.command(), env=checkout.environment, stderr=subprocess.PIPE, text=True
    )
    started = checkout.folder / 'started'
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    assert message == 'Set-up interrupted; the same command resumes it.\n'
    assert has_ended(int(started.read_text()))
    checkout.rules('')
    checkout.calls()
    checkout.run()
    assert 'torch.txt' in checkout.calls()[0]


BROKEN_MMCV = """
[[ "$*" == *mmcv.ops* ]] && [ ! -e built ] && { echo undefined symbol >&2; exit 1; }
"""


def test_sentence_of_the_build_is_handed_on(checkout):
    """The build of mmcv explains itself; the set-up does not wrap that once more."""
    said = 'Set-up stopped: nms.cpp does not compile; the log is here.'
    checkout.rules(f'[[ "$*" == *build_mmcv* ]] && {{ echo "{said}"; exit 1; }}')
    assert checkout.run(status=1).splitlines()[-1] == said


@pytest.mark.parametrize(
    'file', ['tools/build_mmcv.py', 'tools/environment/mmcv_setup.py']
)
def test_mmcv_is_looked_at_again_where_its_build_changes(checkout, file):
    checkout.run()
    checkout.calls()
    (checkout.root / file).write_text('# changed')
    checkout.run()
    assert checkout.calls() == ['build_mmcv.py']


def test_another_torch(checkout):
    checkout.run('test', '--torch', '2.14.1')
    calls = checkout.calls()
    assert calls[1] == 'install --no-build-isolation torch==2.14.1 torchvision'
    checkout.run('test', '--torch', '2.13.0')
    assert checkout.calls() == [
        'install --no-build-isolation torch==2.13.0 torchvision',
        'build_mmcv.py',
    ]


@pytest.mark.parametrize('version', ['2.0.1', '1.13.1', '2.16.0', '3.0', 'newest'])
def test_unsupported_torch_is_told_before_downloads(checkout, version):
    output = checkout.run('test', '--torch', version, status=1)
    assert f'torch {version} is not supported' in output
    assert '2.1 or newer, before 2.16' in output
    assert checkout.calls() == []


def test_missing_compiler_is_told_before_downloads(checkout):
    checkout.rules(BROKEN_MMCV)
    checkout.environment['CXX'] = 'no-such-compiler'
    assert 'no-such-compiler` that builds mmcv was not found' in checkout.run(status=1)
    assert checkout.calls() == []


def test_compiler_without_headers(checkout):
    checkout.rules(BROKEN_MMCV)
    checkout.environment['CXX'] = 'false'
    assert 'Python.h' in checkout.run(status=1)
    assert checkout.calls() == []


def test_compiler_is_not_asked_for_where_mmcv_works(checkout):
    checkout.environment['CXX'] = 'no-such-compiler'
    checkout.run()


def test_missing_nvcc_is_told_before_downloads(checkout):
    checkout.rules(BROKEN_MMCV)
    checkout.environment['FORCE_CUDA'] = '1'
    checkout.environment['CUDA_HOME'] = str(checkout.folder)
    assert 'this machine has a GPU, but' in checkout.run(status=1)
    assert checkout.calls() == []


def test_missing_ensurepip(tmp_path, monkeypatch):
    monkeypatch.setattr(venv.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(commands.SetupError, match='python3-venv'):
        venv.Environment(tmp_path).create()


def test_foreign_folder_is_left_alone(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.venv.mkdir()
    (checkout.venv / 'thesis.tex').write_text('years of work')
    assert 'is no virtual environment' in checkout.run(status=1)
    assert [path.name for path in checkout.venv.iterdir()] == ['thesis.tex']


def test_incomplete_environment_is_made_anew(tmp_path):
    checkout = Checkout(tmp_path)
    (checkout.venv / '.setup').mkdir(parents=True)
    (checkout.venv / 'leftover').touch()
    checkout.environment['PIP_NO_INDEX'] = '1'
    checkout.run('lint')
    assert not (checkout.venv / 'leftover').exists()
    python = checkout.venv / 'bin' / 'python'
    subprocess.run([python, '-c', 'import pip'], check=True)


def test_make_help_names_every_target():
    command = ['make', '-s', '-C', ROOT, 'help']
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rules = re.findall(r'^([\w-]+):.*## ', (ROOT / 'Makefile').read_text(), re.M)
    assert 'demo-mask2former' in rules
    assert re.findall(r'^make (\S+)', said, re.M) == rules


@pytest.mark.parametrize('target', ['demo', 'test', 'docs', 'lint', 'setup'])
def test_make_without_python(target):
    command = ['make', '-C', ROOT, target, 'PYTHON=no-such-python']
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode
    assert 'there is no no-such-python here' in result.stderr.splitlines()[0]


def test_another_torch_is_named():
    result = subprocess.run(
        ['make', '-C', ROOT, 'test-torch', 'TORCH='], capture_output=True, text=True
    )
    assert result.returncode
    assert 'make test-torch TORCH=2.14.1' in result.stderr.splitlines()[0]
