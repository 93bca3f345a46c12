"""What must be there before something large is downloaded or compiled."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from .commands import ROOT, SetupError, last_line

OLDEST, NEWEST_TRIED = (3, 10), (3, 13)

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


def read_requirements(name):
    """The text of requirements/<name>.txt, with the files that it includes."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text()
    included = re.findall(r'^-r (\S+)\.txt', text, re.MULTILINE)
    return ''.join([text] + [read_requirements(other) for other in included])


def numbers(version):
    """The numbers that a version begins with: (2, 15, 0) of 2.15.0+cu132."""
    return tuple(map(int, re.match(r'\d+(\.\d+)*', version).group().split('.')))


def check_python(version):
    """Raises SetupError if Python is too old; says so if it is newer than tried."""
    found = '.'.join(str(part) for part in version[:3])
    if tuple(version[:2]) < OLDEST:
        raise SetupError(
            f'Python 3.10 or newer is needed, but this is Python {found}; name another '
            'one, as in `make demo PYTHON=python3.11`.'
        )
    if tuple(version[:2]) > NEWEST_TRIED:
        tried = ' to '.join('.'.join(map(str, v)) for v in (OLDEST, NEWEST_TRIED))
        print(f'Python {found} is newer than what was tried ({tried}); going on.')


def check_torch(version):
    """Raises SetupError unless requirements/runtime.txt allows this torch."""
    requirement = re.search('^torch>=(.+),<(.+)$', read_requirements('runtime'), re.M)
    oldest, beyond = requirement.groups()
    found = re.match(r'\d+\.\d+', version)
    if not found or not numbers(oldest) <= numbers(version) < numbers(beyond):
        raise SetupError(
            f'torch {version} is not supported: mmmanikey takes {oldest} or newer, '
            f'before {beyond}; the tests run on that of requirements/torch.txt.'
        )


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


def find_nvcc():
    """The path of the CUDA compiler, or None. (Where torch looks for it.)"""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    places = [home + '/bin/nvcc'] if home else ['nvcc', '/usr/local/cuda/bin/nvcc']
    return next(filter(None, map(shutil.which, places)), None)


def check_cuda_compiler():
    """Raises SetupError if there is no nvcc."""
    if not find_nvcc():
        raise SetupError(
            'this machine has a GPU, but the CUDA compiler nvcc that builds the CUDA '
            'operators of mmcv was not found; install the CUDA toolkit, set CUDA_HOME, '
            'or set CUDA_VISIBLE_DEVICES to nothing to do without the GPU.'
        )
