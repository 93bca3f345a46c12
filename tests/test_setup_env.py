"""The set-up script, run as make runs it, in a checkout and environment of straw.

The environment's Python is a shell script that notes its arguments and follows the
rules that a test gives it; nothing is downloaded or built.
"""

import ast
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tools' / 'setup_env.py'

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
    'mmcv': 'onedl-mmengine==0.10.12\nonedl-mmcv==2.3.6\n',
    'mm': '-r mmcv.txt\nonedl-mmdetection==3.5.1\n',
    'demo': 'matplotlib\n',
    'test': '-r demo.txt\npytest\n',
    'lint': '',
}


def load_script():
    spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load_script()


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
        """The pip commands since the last time this was asked."""
        path = self.folder / 'calls'
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.strip()[7:] for line in lines if line.startswith('-m pip ')]

    def command(self, extra='test'):
        script = self.root / 'tools' / 'setup_env.py'
        return [sys.executable, str(script), '--venv', str(self.venv), '--extra', extra]

    def run(self, extra='test', status=0):
        """Runs the script and returns what it printed."""
        result = subprocess.run(
            self.command(extra), env=self.environment, capture_output=True, text=True
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
    names = [call.split(' ')[3] for call in calls[:-1]]
    order = ('build', 'torch', 'mmcv', 'mm', 'test')
    assert names == [f'requirements/{name}.txt' for name in order]
    assert calls[-1].endswith('-e .')
    assert all('--no-build-isolation' in call for call in calls)
    assert '[7/7]' in output
    assert '12 minutes' in output
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
    (call,) = checkout.calls()
    assert 'requirements/mmcv.txt' in call


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
    assert checkout.calls()[0].endswith('requirements/torch.txt')


def test_interrupted_set_up_resumes(checkout):
    """The signal ends pip and what pip started; the finished steps stay."""
    checkout.rules('[[ "$*" == *torch.txt ]] && { touch started; sleep 60 & wait; }')
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
    checkout.rules('')
    checkout.calls()
    checkout.run()
    assert checkout.calls()[0].endswith('requirements/torch.txt')


BROKEN_MMCV = """
[[ "$*" == *mmcv.ops* ]] && [ ! -e built ] && { echo undefined symbol >&2; exit 1; }
"""


def test_mmcv_for_another_torch_is_rebuilt(checkout):
    checkout.rules(BROKEN_MMCV + '[[ "$*" == *--no-cache-dir* ]] && touch built')
    output = checkout.run()
    _, _, first, removed, second, *_ = checkout.calls()
    assert '-r requirements/mmcv.txt' in first
    assert removed == 'uninstall -y onedl-mmcv'
    for option in ('--no-build-isolation', '--no-cache-dir', '--no-binary onedl-mmcv'):
        assert option in second
    assert second.endswith('onedl-mmcv==2.3.6')
    assert 'does not work (undefined symbol)' in output


def test_mmcv_that_never_works(checkout):
    checkout.rules(BROKEN_MMCV)
    output = checkout.run(status=1)
    assert 'mmcv is installed but does not work (undefined symbol)' in output


def test_mmcv_check_is_valid_python():
    ast.parse(setup_env.MMCV_WORKS)


def test_installed_mmcv_passes_the_check():
    subprocess.run([sys.executable, '-c', setup_env.MMCV_WORKS], check=True)


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


def test_real_compiler(monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    setup_env.check_compiler()


def test_missing_nvcc_is_told_before_downloads(checkout):
    checkout.rules(BROKEN_MMCV)
    checkout.environment['FORCE_CUDA'] = '1'
    checkout.environment['CUDA_HOME'] = str(checkout.folder)
    assert 'this machine has a GPU, but' in checkout.run(status=1)
    assert checkout.calls() == []


def test_python_too_old():
    with pytest.raises(setup_env.SetupError, match=r'3\.10 or newer.*Python 3\.9\.18'):
        setup_env.check_python((3, 9, 18))


def test_python_newer_than_tried(capsys):
    setup_env.check_python((3, 99, 0))
    assert 'newer than what was tried' in capsys.readouterr().out
    setup_env.check_python((3, 12, 1))
    assert not capsys.readouterr().out


def test_old_python_can_parse_the_script():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))


def test_missing_ensurepip(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(setup_env.SetupError, match='python3-venv'):
        setup_env.Environment(tmp_path).create()


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


@pytest.mark.parametrize('target', ['demo', 'test', 'docs', 'lint', 'setup'])
def test_make_without_python(target):
    command = ['make', '-C', ROOT, target, 'PYTHON=no-such-python']
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode
    assert 'there is no no-such-python here' in result.stderr.splitlines()[0]


def test_long_step_shows_life(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, 'HEARTBEAT', 0.05)
    env = setup_env.Environment(tmp_path)
    env.state.mkdir()
    env.run(['bash', '-c', 'echo "[3/146] c++ nms.o"; sleep 0.3'], 'mmcv')
    assert 'compiled 3 of 146 files' in capsys.readouterr().out


def test_progress_without_compilation(tmp_path):
    log = tmp_path / 'log'
    log.write_text('\n$ pip install\nCollecting x\n  Downloading x.whl (500 MB)\n')
    assert setup_env.progress(log) == 'Downloading x.whl (500 MB)'
