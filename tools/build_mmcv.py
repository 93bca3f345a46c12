"""Builds mmcv for the torch of this Python, with its operators, and installs it.

    python tools/build_mmcv.py

Run it with the Python of the environment that mmcv is for. The wheel is kept in the
user's cache folder, keyed by all that went into it: another environment with the same
torch compiles nothing. `environment/mmcv_setup.py` says how mmcv is compiled.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path

from environment import checks, commands
from environment.commands import ROOT, SetupError

SOURCE = ROOT / 'requirements' / 'mmcv_source.txt'
RECIPE = ROOT / 'tools' / 'environment' / 'mmcv_setup.py'
BUILT = 'built.json'


def cache_folder():
    """Where wheels are kept."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'mmmanikey'


def find_torch():
    """The installed torch, one that is supported.

    Raises:
        SetupError: If there is none, or an unsupported one.
    """
    try:
        version = metadata.version('torch')
    except metadata.PackageNotFoundError:
        raise SetupError(
            f'there is no torch in {sys.prefix}, and mmcv is compiled against it; '
            'install it first, as in `pip install -r requirements/torch.txt`.'
        ) from None
    checks.check_torch(version)
    import torch

    return torch


def wants_cuda(torch):
    """Whether CUDA operators are built: torch sees a GPU, or FORCE_CUDA=1.

    Raises:
        SetupError: If they are, but this torch or machine cannot compile them.
    """
    if os.environ.get('FORCE_CUDA') != '1' and not torch.cuda.is_available():
        return False
    if torch.version.cuda is None:
        raise SetupError(
            f'FORCE_CUDA=1 asks for CUDA operators, but torch {torch.__version__} was '
            'built without CUDA; unset it, or install a torch with CUDA.'
        )
    checks.check_cuda_compiler()
    return True


def version_lines(command):
    """What a compiler says of its version."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in result.stdout.splitlines() if any(map(str.isdigit, line))]


def ingredients(torch, cuda):
    """All that a wheel depends on, by name."""
    compiler = shlex.split(os.environ.get('CXX') or 'c++')
    found = {
        'mmcv': SOURCE.read_text(),
        'recipe': RECIPE.read_text(),
        'torch': torch.__version__,
        'python': sysconfig.get_config_var('EXT_SUFFIX'),
        'compiler': version_lines([*compiler, '--version']),
        'flags': {
            name: os.environ.get(name, '')
            for name in ('CC', 'CFLAGS', 'CPPFLAGS', 'CXXFLAGS', 'LDFLAGS')
        },
        'cuda': None,
    }
    if cuda:
        devices = range(torch.cuda.device_count())
        found['cuda'] = {
            'nvcc': version_lines([checks.find_nvcc(), '--version']),
            'arguments': os.environ.get('MMCV_CUDA_ARGS', ''),
            # Where none are named, torch compiles for the GPUs that it sees.
            'architectures': os.environ.get('TORCH_CUDA_ARCH_LIST')
            or sorted({torch.cuda.get_device_capability(device) for device in devices}),
        }
    return found


def hash_of(path):
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cached_wheel(folder):
    """A wheel that was kept, or None; a damaged one is thrown away."""
    if not folder.exists():
        return None
    try:
        built = json.loads((folder / BUILT).read_text())
        wheel = folder / built['wheel']
        whole = hash_of(wheel) == built['sha256']
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if whole:
        return wheel
    print(f'The wheel kept in {folder} is damaged; building it again.', flush=True)
    shutil.rmtree(folder)
    return None


def pip(title, log, *arguments, cuda=False):
    """Runs pip with its output in a log."""
    print(f'{title} ...', flush=True)
    command = [sys.executable, '-m', 'pip', *arguments]
    commands.run(command, title, log, FORCE_CUDA=str(int(cuda)))


def build(folder, log, cuda, found):
    """Fetches and compiles mmcv, and keeps the wheel.

    Args:
        folder: Where to keep it; appears whole or not at all.
        log: The file for what pip and compilers write.
        cuda: Whether to build the CUDA operators.
        found: The ingredients, which are kept beside it.
    """
    # Of a fixed name, so that what a killed build left is found and removed.
    work = folder.with_suffix('.building')
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        pip(
            "mmcv's source",
            log,
            *('download', '--no-deps', '--no-build-isolation', '--no-binary', ':all:'),
            *('--require-hashes', '-r', str(SOURCE), '-d', str(work / 'fetched')),
            cuda=cuda,
        )
        (archive,) = (work / 'fetched').iterdir()
        shutil.unpack_archive(str(archive), str(work / 'source'))
        (source,) = (work / 'source').iterdir()
        shutil.copyfile(str(RECIPE), str(source / 'setup.py'))
        made = work / 'made'
        pip(
            f'mmcv, compiled {"with" if cuda else "without"} CUDA operators',
            log,
            *('wheel', '-v', '--no-deps', '--no-build-isolation', '-w', str(made)),
            str(source),
            cuda=cuda,
        )
        (wheel,) = made.iterdir()
        built = dict(wheel=wheel.name, sha256=hash_of(wheel), **found)
        (made / BUILT).write_text(json.dumps(built, indent=2))
        os.replace(str(made), str(folder))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def complaint(cuda):
    """Why the installed mmcv is not the wanted one or its operators fail, or ''."""
    name, version = SOURCE.read_text().split()[0].split('==')
    code = (
        'from importlib import metadata\n'
        f'assert metadata.version({name!r}) == {version!r}\n{checks.MMCV_WORKS}'
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, FORCE_CUDA=str(int(cuda))),
        cwd=sys.prefix,
    )
    return commands.last_line(result.stderr) if result.returncode else ''


def check_environment():
    """Raises SetupError if mmcv cannot be built or installed here."""
    missing = [n for n in ('setuptools', 'wheel', 'packaging') if not util.find_spec(n)]
    if missing:
        raise SetupError(
            f'{" and ".join(missing)} missing in {sys.prefix}: '
            'run `pip install "setuptools<82" wheel packaging numpy`.'
        )
    providers = set(metadata.packages_distributions().get('mmcv', []))
    other = ' '.join(sorted(providers - {'onedl-mmcv', 'onedl_mmcv'}))
    if other:
        raise SetupError(
            f'{other} is installed in {sys.prefix} and provides mmcv already; keep it, '
            f'or run `pip uninstall {other}` first.'
        )


def install():
    """Installs mmcv into the environment of this Python, built if need be."""
    torch = find_torch()
    check_environment()
    cuda = wants_cuda(torch)
    if not complaint(cuda):
        print('mmcv is installed, and its operators work.')
        return
    checks.check_compiler()
    found = ingredients(torch, cuda)
    key = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / f'mmcv-{key}'
    folder.parent.mkdir(parents=True, exist_ok=True)
    guard = folder.with_suffix('.lock')
    guard.touch()
    handle = commands.lock(guard, 'The same mmcv is being built; waiting for it.')
    try:
        put_in(folder, cuda, found)
    finally:
        os.close(handle)
    print(f'mmcv is installed for torch {torch.__version__}.')


def put_in(folder, cuda, found):
    """Installs the wheel of a folder, built if there is none that works."""
    log = folder.with_suffix('.log')
    kept = cached_wheel(folder)
    for wheel in (kept, None) if kept else (None,):
        if wheel is None:
            shutil.rmtree(folder, ignore_errors=True)
            build(folder, log, cuda, found)
            wheel = cached_wheel(folder)
        pip('mmcv', log, 'install', '--no-deps', '--force-reinstall', str(wheel))
        pip('what mmcv needs', log, 'install', '-r', 'requirements/mmcv.txt')
        why = complaint(cuda)
        if not why:
            return
        print(f'The wheel does not work ({why}).', flush=True)
    raise SetupError(f'mmcv was built but does not work ({why}); the log is {log}.')


def main(arguments=None):
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args(arguments)

    def action():
        checks.check_python(sys.version_info)
        install()

    return commands.status_of(action)


if __name__ == '__main__':
    sys.exit(main())
