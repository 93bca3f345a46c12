"""Settings shared by all tests."""

import gc
import ipaddress
import os
import socket
import sys

import done_once
import pytest
from hypothesis import settings
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed

# Small models on shared runners: what matters is that every run draws the same.
settings.register_profile('mmmanikey', deadline=None, derandomize=True, max_examples=25)
settings.load_profile('mmmanikey')

done_once.install()

# No tests, but what runs these on upstream's packages.
collect_ignore = ['mutation', 'upstream']


def pytest_configure(config):
    """pytest-randomly draws the order of tests, and never their numbers."""
    config.option.randomly_reset_seed = False


#: Files whose single tests take longest. Begun last they would keep one worker for
#: minutes after the others have ended.
LONGEST = ('test_zoos.py', 'test_two_lines_train.py', 'test_two_lines.py')


def pytest_collection_modifyitems(items):
    """The longest come first, all others in the order that pytest-randomly draws."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish():
    """What is imported stays, so the garbage collector need not look at it each time.

    mmengine has it look at everything for every data set, which is a second by now.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


def refuse_network(event, args):
    """An audit hook: whoever wants to reach another machine gets an error."""
    if event in ('socket.connect', 'socket.sendto', 'socket.sendmsg'):
        # other families, such as Unix's, stay on this machine
        host = args[1][0] if isinstance(args[1], tuple) else None
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname'):
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and host not in ('localhost', socket.gethostname()) and not loopback(host):
        raise RuntimeError(f'tests have no network, and this one wants {host!r}')


def loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


sys.addaudithook(refuse_network)
# Processes that tests start find a proxy that is not there.
NOBODY = 'http://127.0.0.1:9'
os.environ.update(http_proxy=NOBODY, https_proxy=NOBODY, no_proxy='localhost,127.0.0.1')


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """No test finds the default scope of another."""
    DefaultScope._instance_dict.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    """MMEngine's loggers keep the stdout they were made with, and pytest closes it.

    It does so after a test, and also between a test's fixtures and the test itself.
    """
    MMLogger._instance_dict.clear()


@pytest.fixture(autouse=True)
def fixed_seed():
    set_random_seed(0)


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Run a loaded tool in this process; its status, stdout and stderr."""
    from mmmanikey.engine import cli

    def run(tool, *args):
        monkeypatch.setattr(sys, 'argv', [tool.__file__, *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.tool(lambda: sys.exit(tool.main()))
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope='session')
def fork():
    """Run scripts as ``scripts.script`` does, with the frameworks imported before."""
    from forks import Forks
    from scripts import ROOT, environment

    started = []

    def run(folder, script, *args, **kwargs):
        if not started:
            modules = ['mmdet.apis', 'mmdet.datasets', 'mmpretrain.apis']
            modules += ['mmpretrain.datasets', 'matplotlib.pyplot']
            # asked in another way, torch lets no process that is forked use a GPU
            env = environment(PYTORCH_NVML_BASED_CUDA_CHECK='1')
            started.append(Forks(ROOT, modules, env))
        return started[0].run(script, *args, folder=folder, **kwargs)

    yield run
    for process in started:
        process.close()
