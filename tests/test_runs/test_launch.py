"""tools/dist_train.sh as a user starts it: a rank that dies, and two machines."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ranks
import torch
from small_run import write_config

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent

# The launches share cores with other tests; the two nodes wait for each other.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('distributed')]


def launch(config, gpus, work_dir, *options, **env):
    """Start tools/dist_train.sh; its output goes into ``<work_dir>.{out,err}``."""
    paths = [str(HERE), str(HERE.parent)]
    env = {**os.environ, 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': '', **env}
    env.update(PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS='1')
    command = [ROOT / 'tools/dist_train.sh', config, gpus, '--work-dir', work_dir]
    command += ['--cfg-options', *options]
    out, err = (Path(f'{work_dir}.{kind}') for kind in ('out', 'err'))
    with out.open('w') as stdout, err.open('w') as stderr:
        return subprocess.Popen(
            list(map(str, command)), env=env, stdout=stdout, stderr=stderr
        )


def loaders_of(workers):
    """Each rank's processes that load data."""
    return [loader for worker in workers for loader in worker.children()]


def runs(process):
    """Also False where nobody has asked for the status of a process that is gone."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds):
    for _ in range(int(seconds / 0.2)):
        if condition():
            return
        time.sleep(0.2)
    pytest.fail(f'not within {seconds} s')


def test_a_killed_rank_ends_the_launch(tmp_path):
    config, work_dir = write_config(tmp_path), tmp_path / 'killed'
    launched = launch(
        config,
        2,
        work_dir,
        'train_cfg.max_epochs=100000',
        'default_hooks.checkpoint.interval=100000',
        'train_dataloader.num_workers=1',
        'train_dataloader.persistent_workers=True',
    )
    family = []
    try:
        log = Path(f'{work_dir}.out')
        wait_for(lambda: launched.poll() or 'Epoch(train)' in log.read_text(), 300)
        family = workers = psutil.Process(launched.pid).children()
        assert len(workers) == 2
        wait_for(lambda: len(loaders_of(workers)) >= 2, 30)
        family = workers + loaders_of(workers)
        workers[1].kill()
        assert launched.wait(timeout=60) != 0
        reason = Path(f'{work_dir}.err').read_text()
        assert 'FAILED' in reason
        assert f'Signal 9 (SIGKILL) received by PID {workers[1].pid}' in reason
        wait_for(lambda: not any(map(runs, family)), 30)
    finally:
        for process in filter(runs, family):
            process.kill()
        launched.kill()
        launched.wait()


def test_two_nodes_end_with_the_same_weights(tmp_path):
    config = write_config(tmp_path)
    with config.open('a') as file:
        file.write("custom_hooks = [dict(type='SaveEveryRank')]")
    nodes = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=str(ranks.free_port()))
    launches = [
        launch(
            config,
            1,
            tmp_path / f'node{rank}',
            'train_cfg.max_epochs=1',
            NODE_RANK=str(rank),
            **nodes,
        )
        for rank in range(2)
    ]
    try:
        statuses = [launched.wait(timeout=300) for launched in launches]
    finally:
        for launched in launches:
            launched.kill()
            launched.wait()
    errors = [Path(tmp_path, f'node{rank}.err').read_text() for rank in range(2)]
    assert statuses == [0, 0], '\n'.join(errors)[-3000:]
    one, other = (
        torch.load(tmp_path / f'node{rank}/rank{rank}.pth') for rank in range(2)
    )
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = Path(tmp_path, 'node0.out').read_text()
    assert '[1][2/2]' in log  # 8 images, 2 machines, 2 images each
