"""A short soak of the real script, and what it complains about."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import launch
import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('runs')]


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(launch.ROOT / 'benchmarks')
    import soak

    return soak


def test_thirty_iterations_leak_no_handle_and_keep_two_checkpoints(soak, tmp_path):
    """Memory says nothing after so few; ``make soak`` looks at it."""
    sizes = ('--epochs', 3, '--iterations', 10)
    status, printed = launch.launch(
        tmp_path, 'benchmarks/soak.py', '--folder=.', '--json=checks.json', *sizes
    )
    assert status == 0, printed[-3000:]
    written = json.loads((tmp_path / 'checks.json').read_text())
    assert written['conditions']['threads'] == 1
    checks = [soak.Check(**check) for check in written['checks']]
    assert [check.iterations for check in checks] == [10, 20, 30]
    assert [check.checkpoints for check in checks] == [1, 2, 2]
    assert len({(check.handles, check.tensors) for check in checks}) == 1
    assert all(check.memory > 0 and check.children > 0 for check in checks)
    names = sorted(path.name for path in (tmp_path / 'run').glob('*.pth'))
    assert names == ['epoch_2.pth', 'epoch_3.pth']


def test_complaints(soak):
    flat = [
        soak.Check(200 * number, 10**9, 900, 20, 2, min(number, soak.KEEP))
        for number in range(1, 11)
    ]
    assert not soak.complaints(flat)
    grown = {
        'tensors': [*[900] * 9, 901],
        'handles': [20 + number // 9 for number in range(10)],
        'children': [2, *[3] * 9],
        'checkpoints': [*range(1, 11)],
        'memory': [10**9 + 10**7 * number for number in range(10)],
    }
    for name, values in grown.items():
        checks = [replace(check, **{name: value}) for check, value in zip(flat, values)]
        (complaint,) = soak.complaints(checks)
        assert complaint.startswith(name)


def test_memory_may_grow_while_warming_up(soak):
    sizes = [5, 9, *[10, 10.1, 9.9] * 2, 10, 10]
    checks = [
        soak.Check(number, size, 900, 20, 2, min(number + 1, soak.KEEP))
        for number, size in enumerate(sizes)
    ]
    assert not soak.complaints(checks)


LEAKS = {
    'memory': lambda: np.ones(2**21),
    'tensors': lambda: torch.ones(1),
    'handles': lambda: os.dup(1),
}


@pytest.mark.parametrize('name', LEAKS)
def test_leaks_are_found(soak, tmp_path, name):
    """Sixteen megabytes, one tensor or one open file between two checks."""
    hook, leaked = soak.CheckHook(), []
    for number in range(1, 6):
        (tmp_path / f'epoch_{number}.pth').touch()
        (tmp_path / f'epoch_{number - soak.KEEP}.pth').unlink(missing_ok=True)
        hook.after_val_epoch(SimpleNamespace(iter=number, work_dir=tmp_path))
        leaked.append(LEAKS[name]())
    (complaint,) = soak.complaints(hook.checks)
    assert complaint.startswith(name)
    if name == 'handles':
        for handle in leaked:
            os.close(handle)


def test_what_is_given_back_is_no_leak(soak, tmp_path):
    """Cycles that wait for the collector."""
    hook = soak.CheckHook()
    for number in range(1, 6):
        (tmp_path / f'epoch_{number}.pth').touch()
        (tmp_path / f'epoch_{number - soak.KEEP}.pth').unlink(missing_ok=True)
        for _ in range(16):
            cycle = [torch.ones(2**18)]
            cycle.append(cycle)
        hook.after_val_epoch(SimpleNamespace(iter=number, work_dir=tmp_path))
    assert not soak.complaints(hook.checks)
