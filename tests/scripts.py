"""Scripts in processes of their own: ours, and those of installed packages."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
#: What differs from one run to the next of the same training.
CLOCKS = ('time', 'data_time', 'memory')
#: One epoch over what there is, evaluated, every step of it logged.
SHORT = [
    '--cfg-options',
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'default_hooks.logger.interval=1',
    'model.backbone.init_cfg=None',
    'train_dataloader.batch_size=4',
]
for phase in ('train', 'val', 'test'):
    SHORT += [f'{phase}_dataloader.num_workers=0']
    SHORT += [f'{phase}_dataloader.persistent_workers=False']
#: Environment of runs to compare: on a GPU the last digits may differ.
CPU = dict(CUDA_VISIBLE_DEVICES='')


def without_logs(errors):
    """What a process wrote on stderr, but for the lines of torch's own loggers.

    transformers imports torchao where it is installed, and torch has words about it.
    """
    return re.sub(r'^[A-Z]\d{4} [^\n]*torch/[^\n]*\n', '', errors, flags=re.MULTILINE)


def environment(**env):
    """The variables of a process in which the package can be imported.

    What can be imported here can be there as well, also what is not installed.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ, 'PYTHONPATH': path, **env}


def run(folder, *command, check=True, **env):
    """Run a command in a folder; its output, stderr included, as ``stdout``."""
    result = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if check:
        assert result.returncode == 0, result.stdout[-3000:]
    return result


def script(folder, path, *args, **kwargs):
    """Run a Python script in a folder."""
    return run(folder, sys.executable, path, *args, **kwargs)


def installed(module, name):
    """A script that comes with an installed OpenMMLab package, whatever its name."""
    return Path(find_spec(module).origin).with_name('.mim') / 'tools' / name


def training_log(work_dir):
    """Losses and metrics of a training, every digit of them."""
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [
        {name: value for name, value in json.loads(line).items() if name not in CLOCKS}
        for line in path.read_text().splitlines()
    ]


def metrics_of(work_dir):
    """Metrics of a test, every digit of them."""
    (path,) = work_dir.glob('*/*.json')
    content = json.loads(path.read_text())
    return {name: value for name, value in content.items() if name not in CLOCKS}


def has_ended(number):
    """Whether a process ends within a while, by its number."""
    try:
        psutil.Process(number).wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    return True
