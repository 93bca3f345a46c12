"""Settings shared by all tests."""

import sys

import pytest
import torch
from hypothesis import settings

# Small models on shared runners: what matters is that every run draws the same.
settings.register_profile('mmmanikey', deadline=None, derandomize=True, max_examples=25)
settings.load_profile('mmmanikey')


# No tests, but what runs these on upstream's packages.
collect_ignore = ['mutation', 'upstream']


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


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
