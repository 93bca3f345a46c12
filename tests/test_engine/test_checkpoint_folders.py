"""Checkpoints that are folders, as FSDP and DeepSpeed write them, are whole."""

import logging
import os
import shutil
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from mmmanikey.engine.resume import WholeCheckpointHook, last_checkpoint


class Killed(BaseException):
    """What no code catches."""


def write_folder(out_dir, filename, *args, meta, **kwargs):
    """In place of the Runner's way of saving, a folder, as FSDP and DeepSpeed write it.

    Both parts hold the epoch.
    """
    for part in ('rank0.pth', 'rank1.pth'):
        path = Path(out_dir, filename, part)
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(meta['epoch']))


def save(epochs, folder, **options):
    """The hook after it has saved the epochs of a training; nothing is trained."""
    hook = WholeCheckpointHook(interval=1, max_keep_ckpts=1, **options)
    runner = SimpleNamespace(
        work_dir=str(folder),
        logger=logging.getLogger('quiet'),
        message_hub=MessageHub.get_instance(f'test_{os.urandom(4).hex()}'),
        save_checkpoint=write_folder,
        train_loop=None,
        val_loop=None,
    )
    hook.before_train(runner)
    for runner.epoch in range(epochs):
        runner.iter = runner.epoch
        hook._save_checkpoint(runner)
    return hook, runner


def killed_at(number, patch):
    """Be killed by a change to the folders; the count of the changes."""
    calls = count()

    def counted(change, half):
        def counting(*args, **kwargs):
            if next(calls) == number:
                half(*args)
                raise Killed
            return change(*args, **kwargs)

        return counting

    def nothing(*args):
        pass

    def write_half(path, text):
        path.write_bytes(b'')

    def remove_half(folder):
        (Path(folder) / 'rank0.pth').unlink(missing_ok=True)

    for owner, name, half in (
        (os, 'replace', nothing),
        (Path, 'rename', nothing),
        (Path, 'write_text', write_half),
        (shutil, 'rmtree', lambda folder, **kwargs: remove_half(folder)),
    ):
        patch.setattr(owner, name, counted(getattr(owner, name), half))
    return calls


def epoch_of(folder):
    """The epoch of a checkpoint, which must be whole."""
    parts = sorted(Path(folder).iterdir())
    assert [part.name for part in parts] == ['rank0.pth', 'rank1.pth']
    epoch = Path(folder).stem.removeprefix('epoch_')
    assert {part.read_text() for part in parts} == {epoch}
    return int(epoch)


@pytest.mark.parametrize('before', [1, 2])
def test_folders_are_whole_whenever_it_is_killed(before, tmp_path, monkeypatch):
    """A training replaces the folders of another one in the same work dir."""
    for number in count():
        folder = tmp_path / str(number)
        folder.mkdir()
        save(before, folder)
        with monkeypatch.context() as patch:
            calls = killed_at(number, patch)
            try:
                save(2, folder)
                break
            except Killed:
                pass
        assert epoch_of(last_checkpoint(folder)) in (1, 2)
        for path in folder.glob('epoch_*.pth'):
            epoch_of(path)
        save(2, folder)
        assert epoch_of(last_checkpoint(folder)) == 2
        assert not list(folder.glob('.*'))
    assert number == next(calls) > 10
    assert sorted(path.name for path in folder.iterdir()) == [
        'epoch_2.pth',
        'last_checkpoint',
    ]


def test_best_checkpoints_may_be_folders(tmp_path):
    hook, runner = save(1, tmp_path, save_best='accuracy', rule='greater')
    for accuracy in (1, 2):
        runner.epoch += 1
        hook.after_val_epoch(runner, dict(accuracy=accuracy))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'best_accuracy_epoch_2.pth',
        'epoch_2.pth',
        'last_checkpoint',
    ]
    assert epoch_of(last_checkpoint(tmp_path)) == 2


def test_folders_are_not_published(tmp_path, caplog):
    """MMEngine cannot read them; a training is not to end in a traceback for it."""
    hook, runner = save(1, tmp_path, published_keys=['state_dict'])
    with caplog.at_level(logging.WARNING, logger='quiet'):
        hook.after_train(runner)
    assert caplog.messages == [
        f'{tmp_path}/epoch_1.pth is a folder and cannot be published'
    ]
