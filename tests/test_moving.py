"""What is written is on the disk before it has its name, and the name after it."""

import ast
import errno
import os
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from mmmanikey import moving
from mmmanikey.checkpoint import atomic_save
from mmmanikey.engine.cli import UsageError
from mmmanikey.moving import put_in_place, write_whole
from mmmanikey.visualization import output

ROOT = Path(__file__).resolve().parents[1]
#: These make data and environments again when they are asked to: no results are lost.
REMADE = {
    'tools/build_mmcv.py',
    'tools/environment/venv.py',
    'tools/data/whole_folder.py',
    'tools/misc/stage.py',
}


def write_folder(place):
    draft = moving.draft_of(place)
    (draft / 'inner').mkdir(parents=True)
    (draft / 'inner/x').write_text('x')
    put_in_place(draft, place)


WRITERS = {
    'file': lambda place: write_whole(place, lambda draft: draft.write_bytes(b'x')),
    'checkpoint': lambda place: atomic_save(torch.ones(2), place),
    'text': lambda place: output.write_text(place, 'x'),
    'figure': lambda place: output.save_figure(Figure(), place),
    'folder': write_folder,
}


@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize('older', [False, True])
def test_flushed_before_and_after_the_rename(tmp_path, monkeypatch, writer, older):
    """A power failure between any two steps leaves the older content or the new."""
    place = tmp_path / 'new.png'
    if older:
        WRITERS[writer](place)
    steps, replace, fsync = [], os.replace, os.fsync

    def renaming(source, target):
        inodes = {path.stat().st_ino for path in [source, *source.rglob('*')]}
        steps.append(('rename', inodes))
        replace(source, target)

    def flushing(descriptor):
        steps.append(('flush', {os.fstat(descriptor).st_ino}))
        fsync(descriptor)

    monkeypatch.setattr(os, 'replace', renaming)
    monkeypatch.setattr(os, 'fsync', flushing)
    WRITERS[writer](place)
    at = [name for name, _ in steps].index('rename')
    before, after = (
        set().union(*(inodes for name, inodes in part if name == 'flush'))
        for part in (steps[:at], steps[at:])
    )
    assert steps[at][1] <= before
    assert tmp_path.stat().st_ino in after
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize('number', [errno.EINVAL, errno.EIO])
def test_folders_that_cannot_be_flushed(tmp_path, monkeypatch, number):
    """Some network file systems know no fsync of a folder; a failing disk is told."""

    def refusing(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', refusing)
    if number == errno.EINVAL:
        moving.flush(tmp_path)
    else:
        with pytest.raises(OSError, match='Input/output'):
            moving.flush(tmp_path)
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=os.strerror(number)):
        moving.flush(tmp_path / 'file')


def write_file(place):
    draft = moving.draft_of(place)
    draft.write_text('x')
    put_in_place(draft, place)


def test_a_file_and_a_folder_replace_each_other(tmp_path):
    """Checkpoints of a training, which may write either."""
    place = tmp_path / 'epoch_1.pth'
    for write in (write_file, write_folder, write_file):
        write(place)
        assert list(tmp_path.iterdir()) == [place]
    assert place.read_bytes() == b'x'


@pytest.mark.parametrize('writer', [name for name in WRITERS if name != 'folder'])
def test_a_folder_that_a_file_is_to_be_called_stays(tmp_path, writer):
    """It may hold all of a user's results."""
    place = tmp_path / 'results.png'
    write_folder(place)
    with pytest.raises((IsADirectoryError, UsageError), match='it is a folder'):
        WRITERS[writer](place)
    assert (place / 'inner/x').read_text() == 'x'
    assert list(tmp_path.iterdir()) == [place]


def renames(path):
    """Calls that move a file, with one argument (``Path``) or of ``os``."""
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = getattr(node.func.value, 'id', None)
            if node.func.attr == 'rename' or (
                node.func.attr == 'replace' and (owner == 'os' or len(node.args) == 1)
            ):
                yield node.lineno


def test_nothing_else_moves_results_into_place():
    found = {
        str(path.relative_to(ROOT))
        for folder in ('mmmanikey', 'tools', 'benchmarks')
        for path in (ROOT / folder).rglob('*.py')
        if '.mim' not in path.parts and list(renames(path))
    }
    assert found - REMADE == {'mmmanikey/moving.py'}
