"""The build of mmcv and its cache, with a pip of straw: nothing is compiled."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from loading import load_tool

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tools' / 'build_mmcv.py'

# What pip does, put in its place: `calls` gets a letter for each step, `during(step)`
# may interfere.
STRAW = """
import shutil
from pathlib import Path

def straw(script, calls, during=lambda step: None):
    def pip(title, log, *arguments, cuda=False):
        step = arguments[0]
        calls(step)
        if step == 'download':
            fetched = Path(arguments[arguments.index('-d') + 1])
            tree = fetched.with_name('tree') / 'onedl_mmcv-2.3.6'
            tree.mkdir(parents=True)
            (tree / 'setup.py').write_text('of mmcv')
            shutil.make_archive(str(fetched / 'mmcv'), 'gztar', tree.parent, tree.name)
        if step == 'wheel':
            recipe = Path(arguments[-1]) / 'setup.py'
            assert recipe.read_text() == script.RECIPE.read_text()
            made = Path(arguments[arguments.index('-w') + 1])
            made.mkdir()
            (made / 'mmcv.whl').write_text('half')
            during(step)
            (made / 'mmcv.whl').write_text('the wheel')
        if step == 'install' and str(arguments[-1]).endswith('.whl'):
            assert Path(arguments[-1]).read_text() == 'the wheel'
        during(step)
    script.pip = pip
    script.find_torch = lambda: TORCH
    script.wants_cuda = lambda torch: False
    script.check_environment = lambda: None
    script.checks.check_compiler = lambda: None
"""
TORCH = SimpleNamespace(__version__='2.15.0', version=SimpleNamespace(cuda=None))
namespace = {'TORCH': TORCH}
exec(STRAW, namespace)
BUILT = ['download', 'wheel', 'install', 'install']
TAKEN = ['install', 'install']


class Builder:
    """The script with pip of straw, and a cache of its own."""

    def __init__(self, cache):
        self.cache = cache / 'mmmanikey'
        self.script = load_tool(SCRIPT)
        self.steps = []
        self.during = lambda step: None
        namespace['straw'](
            self.script, self.steps.append, lambda step: self.during(step)
        )
        self.works('')

    def works(self, *why):
        """What trying mmcv says after each installation; the last goes on."""
        answers = ['not installed', *why]
        self.script.complaint = lambda cuda: (
            answers.pop(0) if len(answers) > 1 else answers[0]
        )

    def install(self):
        """Installs as in a new environment; the steps that it took."""
        self.steps.clear()
        self.works('')
        self.script.install()
        return list(self.steps)

    def kept(self):
        """The folders and files in the cache, but for locks and logs."""
        return [
            path.name
            for path in self.cache.iterdir()
            if path.suffix not in ('.lock', '.log')
        ]


@pytest.fixture
def builder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return Builder(tmp_path)


def test_second_environment_compiles_nothing(builder):
    assert builder.install() == BUILT
    assert builder.install() == TAKEN
    (folder,) = builder.kept()
    built = json.loads((builder.cache / folder / 'built.json').read_text())
    assert built['torch'] == '2.15.0'  # for who looks at the cache


def test_what_works_is_left_alone(builder, capsys):
    builder.script.complaint = lambda cuda: ''
    builder.script.install()
    assert builder.steps == []
    assert 'mmcv is installed' in capsys.readouterr().out


def empty(folder):
    (folder / 'mmcv.whl').write_text('')


def other(folder):
    (folder / 'mmcv.whl').write_text('the whexl')


def lost(folder):
    (folder / 'mmcv.whl').unlink()


def no_record(folder):
    (folder / 'built.json').unlink()


def bad_record(folder):
    (folder / 'built.json').write_text('{"wheel": ')


def poor_record(folder):
    (folder / 'built.json').write_text('[]')


@pytest.mark.parametrize(
    'damage', [empty, other, lost, no_record, bad_record, poor_record]
)
def test_damaged_wheel_is_built_again(builder, capsys, damage):
    builder.install()
    (folder,) = builder.kept()
    damage(builder.cache / folder)
    capsys.readouterr()
    assert builder.install() == BUILT
    assert 'is damaged; building it again' in capsys.readouterr().out
    assert builder.install() == TAKEN


def test_kept_wheel_that_does_not_work_is_built_again(builder, capsys):
    builder.install()
    builder.steps.clear()
    builder.works('undefined symbol', '')
    builder.script.install()
    assert builder.steps == TAKEN + BUILT
    assert 'does not work (undefined symbol)' in capsys.readouterr().out


@pytest.mark.parametrize('kept', [True, False])
def test_wheel_that_never_works(builder, kept):
    if kept:
        builder.install()
    builder.steps.clear()
    builder.works('undefined symbol')
    with pytest.raises(
        builder.script.SetupError, match=r'does not work \(undefined symbol\).*\.log'
    ):
        builder.script.install()
    assert builder.steps == (TAKEN if kept else []) + BUILT


@pytest.mark.parametrize('step', ['download', 'wheel'])
@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError, SystemExit])
def test_interrupt_leaves_no_half_wheel(builder, step, error):
    def during(reached):
        if reached == step:
            raise error

    builder.during = during
    with pytest.raises(error):
        builder.install()
    assert builder.kept() == []
    builder.during = lambda step: None
    assert builder.install() == BUILT


def test_what_a_killed_build_left_is_removed(builder):
    builder.install()
    (folder,) = builder.kept()
    (builder.cache / folder / 'mmcv.whl').unlink()
    left = (builder.cache / folder).with_suffix('.building') / 'made'
    left.mkdir(parents=True)
    (left / 'half.whl').touch()
    assert builder.install() == BUILT
    assert builder.kept() == [folder]


def change_torch(builder, monkeypatch):
    other = SimpleNamespace(**{**vars(TORCH), '__version__': '2.15.0+cpu'})
    builder.script.find_torch = lambda: other


def change_python(builder, monkeypatch):
    monkeypatch.setattr(
        builder.script.sysconfig, 'get_config_var', lambda name: '.cpython-312.so'
    )


def change_compiler(builder, monkeypatch):
    builder.script.version_lines = lambda command: ['g++ 99']


def change_flags(builder, monkeypatch):
    monkeypatch.setenv('CXXFLAGS', '-march=native')


def change_pin(builder, monkeypatch):
    pin = builder.cache.parent / 'pin.txt'
    pin.write_text('onedl-mmcv==2.3.7 --hash=sha256:0\n')
    builder.script.SOURCE = pin


def change_recipe(builder, monkeypatch):
    recipe = builder.cache.parent / 'recipe.py'
    recipe.write_text('other')
    builder.script.RECIPE = recipe


@pytest.mark.parametrize(
    'change',
    [
        change_torch,
        change_python,
        change_compiler,
        change_flags,
        change_pin,
        change_recipe,
    ],
)
def test_what_a_wheel_depends_on(builder, monkeypatch, change):
    builder.install()
    change(builder, monkeypatch)
    assert builder.install() == BUILT
    assert len(builder.kept()) == 2


def test_cuda_depends_on_toolkit_and_architectures(builder, monkeypatch):
    script = builder.script
    gpus = [(8, 0)]
    torch = SimpleNamespace(
        __version__='2.15.0',
        cuda=SimpleNamespace(
            device_count=lambda: len(gpus),
            get_device_capability=lambda device: gpus[device],
        ),
    )
    monkeypatch.setattr(script, 'version_lines', lambda command: [command[0]])
    monkeypatch.setattr(script.checks, 'find_nvcc', lambda: 'nvcc 13.0')
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)
    seen = [script.ingredients(torch, False), script.ingredients(torch, True)]
    gpus.append((9, 0))
    seen.append(script.ingredients(torch, True))
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '9.0')
    seen.append(script.ingredients(torch, True))
    monkeypatch.setattr(script.checks, 'find_nvcc', lambda: 'nvcc 13.2')
    seen.append(script.ingredients(torch, True))
    texts = {json.dumps(found, sort_keys=True) for found in seen}
    assert len(texts) == len(seen)


RACE = """
import os, sys, time
from types import SimpleNamespace
sys.path.insert(0, {tools!r})
import build_mmcv as script
TORCH = SimpleNamespace(__version__='2.15.0')
{straw}
answers = ['not installed', '']
script.complaint = lambda cuda: answers.pop(0)
def call(step):
    with open({calls!r}, 'a') as file:
        file.write(step + '\\n')
def during(step):
    if step == 'wheel':
        open({started!r}, 'w').close()
        while not os.path.exists({proceed!r}):
            time.sleep(0.01)
straw(script, call, during)
script.install()
"""


def test_two_at_once_build_once(tmp_path, monkeypatch):
    """The second waits for the first, says so, and takes its wheel."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    calls, started, proceed = (tmp_path / n for n in ('calls', 'started', 'proceed'))
    code = RACE.format(
        tools=str(SCRIPT.parent),
        straw=STRAW,
        calls=str(calls),
        started=str(started),
        proceed=str(proceed),
    )
    command = [sys.executable, '-u', '-c', code]
    first = subprocess.Popen(command)
    while not started.exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert 'waiting for it' in second.stdout.readline()
    proceed.touch()
    assert first.wait(60) == 0
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert sorted(calls.read_text().split()) == sorted(BUILT + TAKEN)


@pytest.mark.parametrize('version', ['2.0.1', '2.16.0', '2.16.0.dev1+cpu', '3.0'])
def test_unsupported_torch_gets_a_sentence(monkeypatch, capsys, version):
    script = load_tool(SCRIPT)
    monkeypatch.setattr(script.metadata, 'version', lambda name: version)
    monkeypatch.setattr(script, 'pip', None)  # it does not come to that
    assert script.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f'torch {version} is not supported' in line


def test_missing_torch_gets_a_sentence(monkeypatch, capsys):
    script = load_tool(SCRIPT)

    def version(name):
        raise script.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(script.metadata, 'version', version)
    assert script.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'there is no torch in' in line
    assert 'pip install -r requirements/torch.txt' in line


def test_torch_without_cuda(monkeypatch):
    script = load_tool(SCRIPT)
    torch = SimpleNamespace(
        __version__='2.15.0+cpu',
        version=SimpleNamespace(cuda=None),
        cuda=SimpleNamespace(is_available=lambda: False),
    )
    monkeypatch.setenv('FORCE_CUDA', '0')
    assert script.wants_cuda(torch) is False
    monkeypatch.setenv('FORCE_CUDA', '1')
    with pytest.raises(script.SetupError, match='was built without CUDA'):
        script.wants_cuda(torch)
    torch.version.cuda = '13.2'
    monkeypatch.setenv('CUDA_HOME', '/nowhere')
    with pytest.raises(script.SetupError, match='nvcc'):
        script.wants_cuda(torch)
    monkeypatch.setattr(script.checks, 'find_nvcc', lambda: 'nvcc')
    assert script.wants_cuda(torch) is True


def test_missing_build_tools_get_a_sentence(monkeypatch):
    script = load_tool(SCRIPT)
    monkeypatch.setattr(script.util, 'find_spec', lambda name: name != 'wheel')
    with pytest.raises(script.SetupError, match=r'^wheel missing .*pip install'):
        script.check_environment()


@pytest.mark.parametrize('name', ['mmcv', 'mmcv-full', 'mmcv-lite'])
def test_another_distribution_of_mmcv_is_left_alone(monkeypatch, name):
    script = load_tool(SCRIPT)
    found = {'mmcv': ['onedl-mmcv', name]}
    monkeypatch.setattr(script.metadata, 'packages_distributions', lambda: found)
    with pytest.raises(script.SetupError, match=f'^{name} is installed .*uninstall'):
        script.check_environment()
    found['mmcv'] = ['onedl-mmcv']
    script.check_environment()


def test_source_is_pinned_as_mmcv_is():
    pin = (ROOT / 'requirements' / 'mmcv_source.txt').read_text()
    name, option = pin.split()
    assert name in (ROOT / 'requirements' / 'mmcv.txt').read_text().splitlines()
    assert re.fullmatch('--hash=sha256:[0-9a-f]{64}', option)


def test_python_and_compiler_say_their_versions():
    script = load_tool(SCRIPT)
    assert script.version_lines([sys.executable, '--version'])
    compiler = script.ingredients(SimpleNamespace(__version__='2.15.0'), False)
    assert any(map(str.isdigit, compiler['compiler'][0]))
