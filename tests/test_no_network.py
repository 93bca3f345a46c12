"""No test reaches another machine: neither its process nor those that it starts."""

import socket
import subprocess
import sys
from urllib.request import build_opener

import pytest

# Names and addresses that are kept for documentation: nobody has them.
ADDRESS = '192.0.2.1', 80


@pytest.mark.parametrize(
    'reach',
    [
        lambda: build_opener().open('https://example.org', timeout=1),
        lambda: socket.create_connection(ADDRESS, timeout=1),
        lambda: socket.gethostbyname('example.org'),
        lambda: socket.socket(type=socket.SOCK_DGRAM).connect(ADDRESS),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ADDRESS),
    ],
    ids=['url', 'connection', 'name', 'connect', 'sendto'],
)
def test_other_machines_are_out_of_reach(reach, monkeypatch):
    monkeypatch.delenv('https_proxy')
    with pytest.raises(RuntimeError, match='tests have no network, and this one wants'):
        reach()


def test_this_machine_is_within_reach():
    with socket.create_server(('127.0.0.1', 0)) as server:
        for host in ('localhost', '127.0.0.1'):
            socket.create_connection((host, server.getsockname()[1])).close()


def test_processes_find_no_way_out():
    code = "from urllib.request import urlopen; urlopen('https://example.org')"
    ended = subprocess.run([sys.executable, '-c', code], stderr=subprocess.PIPE)
    assert b'Connection refused' in ended.stderr
