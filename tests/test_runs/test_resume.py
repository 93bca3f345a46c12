"""A training that was killed and resumed ends as one that nothing happened to.

To the last bit, in weights, averaged weights, moments of the optimiser, schedules and
logged losses, with drop path and random crops in worker processes.
"""

import shutil
import signal
import subprocess
import sys
from functools import partial

import launch
import numpy as np
import pytest
import torch

KILLED = -signal.SIGKILL
CONFIGS = {
    'swin': 'mask_rcnn_swin_nano_spatialk.py',
    'vit': 'mask_rcnn_vit_nano_vanillak.py',
    'pretrain_swin': 'pretrain_swin_nano_spatialk.py',
    'pretrain_vit': 'pretrain_vit_nano_vanillak.py',
}
#: The second epoch's last: 4 images in batches of 2.
STEP = 4
CHANGES = """
_base_ = {base!r}
model = dict(backbone=dict(init_cfg=None, drop_path_rate=0.2))
train_cfg = dict(max_epochs=3, val_begin={begin}, val_interval=1)
train_dataloader = dict(batch_size=2)
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
"""

# One worker for all: they share their data, their processes and what is compared with.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('runs')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data, and configs of three epochs with an average of the weights."""
    folder = tmp_path_factory.mktemp('runs')
    make = [sys.executable, str(launch.ROOT / 'tools/data/make_digits.py')]
    sizes = dict(train_images=4, val_images=1, train_crops=8, val_crops=10)
    make += [f'--{name.replace("_", "-")}={size}' for name, size in sizes.items()]
    subprocess.run(make, cwd=folder, check=True)
    for name, base in CONFIGS.items():
        # Validating draws random numbers; that classifiers do it is enough.
        val_begin = 1 if name.startswith('pretrain') else 9
        base = str(launch.ROOT / 'configs/demo' / base)
        (folder / f'{name}.py').write_text(CHANGES.format(base=base, begin=val_begin))
    return folder


@pytest.fixture(scope='module')
def undisturbed(folder):
    """The last checkpoint of a training that nothing happens to."""
    done = {}

    def train(name):
        if name not in done:
            work_dir = folder / f'{name}_undisturbed'
            status, printed = launch.launch(
                folder, 'tools/train.py', f'{name}.py', '--work-dir', work_dir
            )
            assert status == 0, printed[-3000:]
            done[name] = work_dir / 'epoch_3.pth'
        return done[name]

    return train


@pytest.fixture
def train(folder, tmp_path):
    """Start or resume a training in the test's own work dir."""

    def train(name, *args, accident=None):
        args = ('tools/train.py', f'{name}.py', '--work-dir', tmp_path, *args)
        return launch.launch(folder, *args, accident=accident)

    return train


def load(path):
    return torch.load(path, weights_only=False)


def same(one, other):
    """Whether two nested values hold the same bits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return bool((one == other).all())
    return one == other


def assert_same_training(one, other):
    one, other = load(one), load(other)
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert same(one[part], other[part]), part
    assert not same(one['state_dict'], one['ema_state_dict'])
    for name in ('epoch', 'iter'):
        assert one['meta'][name] == other['meta'][name]
    one, other = one['message_hub'], other['message_hub']
    for name in ('epoch', 'iter', 'keep_ckpt_ids'):
        assert one['runtime_info'][name] == other['runtime_info'][name], name
    losses = [hub['log_scalars']['train/loss']._log_history for hub in (one, other)]
    assert len(losses[0]) == one['runtime_info']['iter'] + 1
    assert same(*losses)


def checkpoints(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


@pytest.mark.parametrize('name', ['swin', 'vit'])
def test_killed_in_an_iteration(name, train, undisturbed, tmp_path):
    """Detectors; classifiers meet the other accidents below."""
    accident = partial(launch.die_in_step, STEP)
    assert train(name, accident=accident)[0] == KILLED
    assert checkpoints(tmp_path) == ['epoch_1.pth']
    status, printed = train(name, '--resume')
    assert status == 0, printed[-3000:]
    assert 'resumed epoch: 1' in printed
    assert checkpoints(tmp_path) == ['epoch_3.pth']
    assert_same_training(tmp_path / 'epoch_3.pth', undisturbed(name))


def test_killed_while_writing_then_no_space(train, undisturbed, tmp_path):
    """The demo keeps one checkpoint: with the new one torn, it is the one before."""
    name = 'pretrain_swin'
    accident = partial(launch.die_writing, 'epoch_2.pth')
    assert train(name, accident=accident)[0] == KILLED
    assert checkpoints(tmp_path) == ['epoch_1.pth']
    torn = list(tmp_path.glob('.epoch_2.pth.*'))
    before = tmp_path / 'epoch_1.pth'
    assert [path.stat().st_size > 0 for path in torn] == [True]

    content = before.read_bytes()
    accident = partial(launch.limit_files, len(content) // 2)
    status, printed = train(name, '--resume', accident=accident)
    assert status == 2
    last = printed.splitlines()[-1]
    assert last.startswith(f'error: cannot write {tmp_path}/epoch_2.pth: ')
    assert 'Traceback' not in printed
    assert before.read_bytes() == content
    assert not list(tmp_path.glob('.epoch_2.pth.*'))

    status, printed = train(name, '--resume')
    assert status == 0, printed[-3000:]
    assert 'resumed epoch: 1' in printed
    assert_same_training(tmp_path / 'epoch_3.pth', undisturbed(name))


def test_killed_while_naming_the_last_checkpoint(train, undisturbed, tmp_path):
    """Both checkpoints are there and whole; the one before is still the last."""
    name = 'pretrain_vit'
    accident = partial(launch.die_writing, 'last_checkpoint', time=2)
    assert train(name, accident=accident)[0] == KILLED
    assert checkpoints(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')

    second = tmp_path / 'second'  # as if it had been killed after the naming
    second.mkdir()
    for checkpoint in checkpoints(tmp_path):
        shutil.copy(tmp_path / checkpoint, second)
    (second / 'last_checkpoint').write_text(str(second / 'epoch_2.pth'))
    for work_dir, epoch in ((tmp_path, 1), (second, 2)):
        status, printed = train(name, '--work-dir', work_dir, '--resume')
        assert status == 0, printed[-3000:]
        assert f'resumed epoch: {epoch}' in printed
        assert checkpoints(work_dir) == ['epoch_3.pth']
        assert_same_training(work_dir / 'epoch_3.pth', undisturbed(name))
