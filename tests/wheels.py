"""A copy of the checkout and the wheel that pip builds of it, without network."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd, **options):
    """Runs a command of this Python and returns its output."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        **options,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout


def copy_checkout(folder):
    """Copies what is packaged: a build leaves files where it works."""
    folder.mkdir()
    ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for name in ('configs', 'mmmanikey', 'requirements', 'tools'):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def build_wheel(source, folder):
    """The path of the wheel that is built of a source into a folder."""
    options = ('--no-index', '--no-deps', '--no-build-isolation', '--wheel-dir', folder)
    run('-m', 'pip', 'wheel', *options, source, cwd=folder.parent)
    (path,) = folder.glob('*.whl')
    return path
