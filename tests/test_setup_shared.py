"""What the set-up's scripts share: checks, and commands with a sign of life."""

import ast
import re
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
load_tool(SCRIPT)  # which makes the shared modules importable
from environment import checks, commands, venv  # noqa: E402

RUNS = """
import sys
from pathlib import Path
sys.path.insert(0, {tools!r})
from environment import commands
command = {command!r}
sys.exit(commands.status_of(lambda: commands.run(command, 'x', Path({log!r}))))
"""


def test_interrupt_reaches_what_a_command_of_ours_runs(tmp_path):
    """As the compilers of build_mmcv.py, which the set-up runs."""
    started = tmp_path / 'started'
    shell = f'echo $$ > {tmp_path}/draft; mv {tmp_path}/draft {started}; exec sleep 60'
    command = ['bash', '-c', shell]
    for log in ('inner', 'outer'):
        tools, path = str(SCRIPT.parent), str(tmp_path / log)
        code = RUNS.format(tools=tools, command=command, log=path)
        command = [sys.executable, '-c', code]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert has_ended(int(started.read_text()))


@pytest.mark.parametrize('version', ['2.1.0', '2.9.1', '2.14.1+cu130', '2.15.0'])
def test_supported_torch(version):
    checks.check_torch(version)


def test_pinned_torch_is_supported():
    pins = re.findall('^torch==([^;\n]+)', checks.read_requirements('torch'), re.M)
    assert pins
    for pin in pins:
        checks.check_torch(pin)


def test_mmcv_check_is_valid_python():
    ast.parse(checks.MMCV_WORKS)


def test_installed_mmcv_passes_the_check():
    subprocess.run([sys.executable, '-c', checks.MMCV_WORKS], check=True)


def test_real_compiler(monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    checks.check_compiler()


def test_python_too_old():
    with pytest.raises(commands.SetupError, match=r'3\.10 or newer.*Python 3\.9\.18'):
        checks.check_python((3, 9, 18))


def test_python_newer_than_tried(capsys):
    checks.check_python((3, 99, 0))
    assert 'newer than what was tried' in capsys.readouterr().out
    checks.check_python((3, 13, 1))
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    'name', ['__init__', 'checks', 'commands', 'venv', SCRIPT.stem]
)
def test_old_python_can_parse_the_script(name):
    folder = SCRIPT.parent if name == SCRIPT.stem else SHARED
    ast.parse((folder / f'{name}.py').read_text(), feature_version=(3, 7))


def test_long_step_shows_life(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, 'HEARTBEAT', 0.05)
    env = venv.Environment(tmp_path)
    env.state.mkdir()
    env.run(['bash', '-c', 'echo "[3/146] c++ nms.o"; sleep 0.3'], 'mmcv')
    assert 'compiled 3 of 146 files' in capsys.readouterr().out


def test_progress_without_compilation(tmp_path):
    log = tmp_path / 'log'
    log.write_text('\n$ pip install\nCollecting x\n  Downloading x.whl (500 MB)\n')
    assert commands.progress(log) == 'Downloading x.whl (500 MB)'


def test_progress_of_a_command_that_tells_its_own(tmp_path):
    log = tmp_path / 'log'
    log.write_text('\n$ build\n      1 min 00 s: compiled 3 of 78 files\n')
    assert commands.progress(log) == 'compiled 3 of 78 files'
