"""Keys learn under DDP and FSDP2 as they do in one process."""

import processes
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('keys in two processes')]


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    return processes.launch(tmp_path_factory.mktemp('two'))


@pytest.mark.parametrize('wrapper', ['distributed', 'sharded'])
@pytest.mark.parametrize('name', processes.FAMILIES)
def test_two_processes_are_one(found, name, wrapper):
    for rank in found:
        assert rank[name, wrapper]['moved'] > 1e-5
        assert rank[name, wrapper]['error'] < 1e-3 * rank[name, wrapper]['moved']
