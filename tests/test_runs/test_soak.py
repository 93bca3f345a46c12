"""A short soak of the real script, and what it complains about."""

import json
from dataclasses import replace

import launch
import pytest

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group('runs')]


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(launch.ROOT / 'benchmarks')
    import soak

    return soak


def test_sixty_iterations_leak_no_handle_and_keep_two_checkpoints(soak, tmp_path):
    """Memory says nothing after so few; ``make soak`` looks at it."""
    sizes = ('--epochs', 3, '--iterations', 20)
    status, printed = launch.launch(
        tmp_path, 'benchmarks/soak.py', '--folder=.', '--json=checks.json', *sizes
    )
    assert status == 0, printed[-3000:]
    rows = json.loads((tmp_path / 'checks.json').read_text())
    checks = [soak.Check(**row) for row in rows]
    assert [check.iterations for check in checks] == [20, 40, 60]
    assert [check.checkpoints for check in checks] == [1, 2, 2]
    assert len({check.handles for check in checks}) == 1
    assert all(check.memory > 0 and check.children > 0 for check in checks)
    names = sorted(path.name for path in (tmp_path / 'run').glob('*.pth'))
    assert names == ['epoch_2.pth', 'epoch_3.pth']


def test_complaints(soak):
    flat = [
        soak.Check(200 * number, 10**9, 20, 2, min(number, soak.KEEP))
        for number in range(1, 11)
    ]
    assert not soak.complaints(flat)
    grown = {
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
        soak.Check(number, size, 20, 2, min(number + 1, soak.KEEP))
        for number, size in enumerate(sizes)
    ]
    assert not soak.complaints(checks)
