"""Strangers' files and words are data, never code: of the package and of the tools."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ('mmmanikey', 'tools') for path in (ROOT / folder).rglob('*.py')
)
SCRIPTS = [ROOT / '.ci/run', *sorted((ROOT / 'tools').rglob('*.sh'))]
#: Modules whose loaders build whatever objects a file names.
PICKLES = {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve'}
#: The one file that needs it, for an unpickler that looks up only what is allowed.
UNPICKLER = 'older_torch.py'
RUNNERS = {'eval', 'exec', 'compile', '__import__'}


def dangers(source):
    """What runs a string or unpickles a file in Python source, with its lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names]
            if modules == ['UnpicklingError']:
                continue  # to catch it
            modules.append(getattr(node, 'module', None) or '')
            if found := PICKLES & {name.partition('.')[0] for name in modules}:
                yield f'{node.lineno}: import of {found.pop()}'
        if not isinstance(node, ast.Call):
            continue
        arguments = {keyword.arg: keyword.value for keyword in node.keywords}
        name = ast.unparse(node.func)
        if name in RUNNERS or name == 'os.system':
            yield f'{node.lineno}: {name}()'
        if name == 'torch.load' and not asks_for_weights(arguments):
            yield f'{node.lineno}: torch.load without weights_only'
        if 'shell' in arguments and ast.unparse(arguments['shell']) != 'False':
            yield f'{node.lineno}: {name} through a shell'


def asks_for_weights(arguments):
    """weights_only=True, or what becomes False where the user trusts the file."""
    value = arguments.get('weights_only')
    # older torch reads through an unpickler of ours, whose tests are test_files.py's
    trusted = ('not is_trusted()', 'HAS_ALLOW_LIST and (not is_trusted())')
    return value is not None and ast.unparse(value) in ('True', *trusted)


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_strings_or_unpickles(path):
    known = ['import of pickle'] if path.name == UNPICKLER else []
    assert [found.partition(': ')[2] for found in dangers(path.read_text())] == known


@pytest.mark.parametrize(
    'source',
    [
        'eval("1")',
        'exec(x)',
        'import pickle',
        'from pickle import load',
        'import a, dill.b',
        'torch.load(path)',
        'torch.load(path, weights_only=False)',
        'torch.load(path, weights_only=flag)',
        'os.system("ls")',
        'subprocess.run("ls", shell=True)',
    ],
)
def test_the_scan_sees(source):
    assert len(list(dangers(source))) == 1


@pytest.mark.parametrize(
    'source',
    [
        'model.eval()',
        'from pickle import UnpicklingError',
        'import re; re.compile(x)',
        'torch.load(path, weights_only=True)',
        'subprocess.run(["ls"], shell=False)',
    ],
)
def test_the_scan_lets_pass(source):
    assert not list(dangers(source))


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_clean(path):
    """Unquoted arguments above all; shellcheck comes with requirements/test.txt."""
    shellcheck = Path(sys.executable).with_name('shellcheck')
    result = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
