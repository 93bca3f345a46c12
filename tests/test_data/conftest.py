"""A folder with data, and a training on it in this process."""

import sys

import pytest
import zoo
from loading import load_tool
from small_coco import CLASSES, CONFIG, ROOT

from mmmanikey.engine import cli


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with a config and good data, which a test then spoils."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    for split in ('train', 'val'):
        zoo.write_coco(
            tmp_path / 'data', splits=[split], annotations='{}.json', names=CLASSES
        )
    (tmp_path / 'config.py').write_text(CONFIG)
    return tmp_path / 'data'


@pytest.fixture
def train(data, monkeypatch, capsys):
    """Train for an epoch; the status and what was told on stderr."""

    def run(*options, name='train', checkpoint=()):
        tool = load_tool(ROOT / f'tools/{name}.py')
        args = [name, 'config.py', *checkpoint, '--work-dir=out']
        args += ['--cfg-options', *options] if options else []
        monkeypatch.setattr(sys, 'argv', args)
        status = 0
        try:
            cli.tool(tool.main)
        except SystemExit as end:
            status = end.code
        lines = capsys.readouterr().err.splitlines()
        return status, [line for line in lines if line.startswith('error: ')]

    return run
