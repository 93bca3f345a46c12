"""The hooks that make resuming exact, on a training that takes no time.

``tests/test_runs`` kills and resumes the real ones.
"""

import errno
import itertools
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, DefaultSampler
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import IterBasedTrainLoop, Runner, loops
from torch import nn
from torch.utils.data import DataLoader

from mmmanikey.checkpoint import CheckpointError
from mmmanikey.engine.resume import (
    EpochSeedHook,
    last_checkpoint,
    resume_exactly,
)


class Draws(BaseDataset):
    """Samples that are random numbers of every generator, and their index."""

    def load_data_list(self):
        return [dict() for _ in range(6)]

    def __getitem__(self, index):
        drawn = random.random(), np.random.rand(), torch.rand(()).item()
        return torch.tensor([index, *drawn], dtype=torch.float64)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, *inputs, mode):
        return dict(loss=self.weight) if mode == 'loss' else [{}]


class Record(Hook):
    """The batches of each epoch, and a number that this process draws."""

    def __init__(self):
        self.epochs = {}

    def before_train_epoch(self, runner):
        self.epochs[runner.epoch] = [torch.rand(1)]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.epochs[runner.epoch].append(torch.stack(list(data_batch)))


class Validated(Hook):
    """After how many iterations it was validated; can be killed before one of them."""

    def __init__(self, killed_at=None):
        self.killed_at, self.iters = killed_at, []

    def before_val(self, runner):
        self.now = runner.iter
        if runner.iter == self.killed_at:
            raise KeyboardInterrupt

    def after_val_epoch(self, runner, metrics=None):
        self.iters.append(runner.iter)


class Score(BaseMetric):
    """The best is that after ``peak`` iterations."""

    default_prefix = 'val'

    def __init__(self, validated, peak):
        super().__init__()
        self.validated, self.peak = validated, peak

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=-abs(self.validated.now - self.peak))


@pytest.fixture
def train(tmp_path):
    """Train for some epochs; the records of the epochs, and the runner."""

    def train(
        epochs,
        load_from=None,
        seed=0,
        num_workers=0,
        keep=-1,
        sampler='DefaultSampler',
        train_cfg=None,
        validated=None,
        peak=3,
        **hook,
    ):
        hook = {'interval': 1, **hook, 'type': 'CheckpointHook', 'max_keep_ckpts': keep}
        cfg = Config(dict(default_hooks=dict(checkpoint=hook)))
        resume_exactly(cfg)
        record = Record()
        runner = Runner(
            Model(),
            str(tmp_path),
            train_dataloader=dict(
                dataset=Draws(),
                batch_size=2,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                sampler=dict(type=sampler, shuffle=True)
                if isinstance(sampler, str)
                else sampler,
            ),
            train_cfg=train_cfg or dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            val_dataloader=validated
            and dict(
                dataset=Draws(), sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            val_cfg=validated and {},
            val_evaluator=validated and Evaluator(Score(validated, peak)),
            load_from=load_from and str(tmp_path / load_from),
            resume=bool(load_from),
            randomness=dict(seed=seed),
            # MMEngine keeps what it logs by this name.
            experiment_name=f'test_{os.urandom(4).hex()}',
            log_level='ERROR',
            default_hooks=cfg.default_hooks,
            custom_hooks=[*cfg.custom_hooks, record, *filter(None, [validated])],
        )
        runner.train()
        # left to the garbage collector, workers may not hear that they are to end
        runner.train_dataloader._iterator = None
        return {
            epoch: torch.cat([x.flatten() for x in drawn])
            for epoch, drawn in record.epochs.items()
        }, runner

    return train


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('seed', [0, None])
def test_resumed_epochs_draw_the_same(train, seed, num_workers):
    """Also where the config has no seed: the checkpoint has the one that was drawn."""
    whole, _ = train(3, seed=seed, num_workers=num_workers)
    resumed, _ = train(3, 'epoch_1.pth', seed=seed, num_workers=num_workers)
    assert resumed.keys() == {1, 2}
    for epoch, drawn in resumed.items():
        assert torch.equal(drawn, whole[epoch])


def test_a_sampler_that_is_built_gets_the_seed_of_the_run(train):
    """As mmengine takes it in scripts."""
    whole, _ = train(2, sampler=DefaultSampler(Draws(), seed=5))
    resumed, _ = train(2, 'epoch_1.pth', sampler=DefaultSampler(Draws(), seed=6))
    assert torch.equal(resumed[1], whole[1])


class EagerIterator:
    """As upstream's mmengine has it: it asks for images as soon as it is made."""

    def __init__(self, loader):
        self.loader, self.epoch = loader, 0
        self.iterator = iter(loader)

    def __next__(self):
        try:
            return next(self.iterator)
        except StopIteration:
            self.epoch += 1
            self.loader.sampler.set_epoch(self.epoch)
            self.iterator = iter(self.loader)
            return next(self.iterator)

    def skip_iter(self, number):
        for _ in range(number):
            next(self)


class EagerLoop(IterBasedTrainLoop):
    """Its iterator is there before the checkpoint is read."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = EagerIterator(self.dataloader)


LOOPS = (IterBasedTrainLoop, EagerLoop)
SAMPLERS = ('InfiniteSampler', 'DefaultSampler')


@pytest.mark.parametrize(
    ('loop', 'sampler', 'num_workers', 'seed'),
    [
        *itertools.product(LOOPS, SAMPLERS, [0], [0, None]),
        # workers take a second to start
        (LOOPS[0], SAMPLERS[0], 2, None),
        (LOOPS[1], SAMPLERS[1], 2, None),
    ],
)
def test_resumed_iterations_have_the_same_images(
    train, monkeypatch, loop, sampler, num_workers, seed
):
    """Beyond the end of the data set, which has three batches."""
    monkeypatch.setattr(loops, 'time', SimpleNamespace(sleep=lambda seconds: None))

    def images(load_from=None):
        found, runner = train(
            None,
            load_from,
            seed=seed,
            num_workers=num_workers,
            sampler=sampler,
            train_cfg=dict(type=loop, max_iters=6),
            by_epoch=False,
        )
        del runner.train_loop.dataloader_iterator
        return found[0][1:].view(-1, 4)[:, 0]

    whole = images()
    assert len(whole.unique()) == 6
    assert len(whole) == 12
    assert torch.equal(images('iter_4.pth'), whole[8:])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_epochs_and_workers_draw_different_numbers(train, num_workers):
    epochs, _ = train(2, num_workers=num_workers)
    samples = torch.cat([drawn[1:].view(-1, 4) for drawn in epochs.values()])
    for generator in (1, 2, 3):
        assert samples[:, generator].unique().numel() == len(samples) == 12


def test_outdated_checkpoints_go_after_the_new_one_is_named(
    train, tmp_path, monkeypatch
):
    seen = []
    remove = LocalBackend.remove

    def removing(self, path):
        files = sorted(file.name for file in tmp_path.glob('*.pth'))
        seen.append((files, (tmp_path / 'last_checkpoint').read_text()[-11:]))
        remove(self, path)

    monkeypatch.setattr(LocalBackend, 'remove', removing)
    train(3, keep=1)
    assert seen == [
        ([f'epoch_{epoch}.pth', f'epoch_{epoch + 1}.pth'], f'epoch_{epoch + 1}.pth')
        for epoch in (1, 2)
    ]


@pytest.mark.parametrize('backend_args', [None, dict(backend='local')])
def test_what_an_interruption_left_goes_where_we_write(train, tmp_path, backend_args):
    """A config that names its storage has MMEngine's way of writing."""
    leftover = tmp_path / '.epoch_1.pth.abc.tmp'
    leftover.touch()
    train(1, backend_args=backend_args)
    assert leftover.exists() == (backend_args is not None)
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_what_was_set_aside_goes_or_comes_back(train, tmp_path):
    """Folders that an interruption left between two renames, see ``put_in_place``."""
    for name in ('.epoch_1.pth.old', '.epoch_7.pth.old'):
        (tmp_path / name).mkdir()
    train(1)
    assert (tmp_path / 'epoch_1.pth').is_file()
    train(2, 'epoch_1.pth')
    assert (tmp_path / 'epoch_7.pth').is_dir()
    (tmp_path / '.epoch_2.pth.old').mkdir()
    train(2, 'epoch_2.pth')
    assert not list(tmp_path.glob('.*.old'))
    assert (tmp_path / 'epoch_2.pth').is_file()


BY_EPOCH = dict(
    train_cfg=dict(by_epoch=True, max_epochs=3),
    names=['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'],
)
BY_ITER = dict(
    train_cfg=dict(by_epoch=False, max_iters=9, val_interval=3),
    names=['iter_3.pth', 'iter_6.pth', 'iter_9.pth'],
    by_epoch=False,
    interval=3,
    sampler='InfiniteSampler',
)


@pytest.mark.parametrize('killed', [0, 1, 2])
@pytest.mark.parametrize('options', [BY_EPOCH, BY_ITER], ids=['epochs', 'iterations'])
def test_a_validation_that_was_cut_is_made_up_for(train, options, killed):
    """Its checkpoint is there and names no best score."""
    options = dict(options, save_best='val/score', rule='greater', epochs=None)
    names, iters = options.pop('names'), [3, 6, 9]
    options['peak'] = iters[killed]
    with pytest.raises(KeyboardInterrupt):
        train(validated=Validated(killed_at=iters[killed]), **options)
    resumed = Validated()
    _, runner = train(load_from=names[killed], validated=resumed, **options)
    assert resumed.iters == iters[killed:]
    assert runner.message_hub.get_info('best_score') == 0


def test_only_a_validation_that_was_due_is_made_up_for(train):
    options = dict(train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=2))
    whole = Validated()
    train(3, validated=whole, **options)
    assert whole.iters == [6, 9]
    resumed = Validated()
    train(3, 'epoch_1.pth', validated=resumed, **options)
    assert resumed.iters == [6, 9]


@pytest.mark.parametrize('content', ['', '\n'])
def test_an_empty_name_of_the_last_checkpoint(tmp_path, content):
    """MMEngine's own hook writes it in place."""
    assert last_checkpoint(tmp_path) is None
    (tmp_path / 'last_checkpoint').write_text(content)
    with pytest.raises(CheckpointError, match='last_checkpoint is empty; give'):
        last_checkpoint(tmp_path)


def test_a_full_disk_is_told_in_a_sentence(train, tmp_path, monkeypatch):
    train(1)
    before = (tmp_path / 'epoch_1.pth').read_bytes()
    sync = os.fsync

    def full(descriptor):
        if '.epoch_1.pth' in os.readlink(f'/proc/self/fd/{descriptor}'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    told = f'cannot write {tmp_path}/epoch_1.pth: No space'
    with pytest.raises(CheckpointError, match=told):
        train(1)
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('loader', [range(3), DataLoader([1, 2, 3], batch_size=None)])
def test_loaders_without_a_batch_sampler_are_seeded(loader):
    """Tools simulate a training on a list; loaders without batches have no sampler."""
    drawn = []
    for iterations in (0, 3, 0):
        runner = SimpleNamespace(
            train_dataloader=loader, train_loop=None, seed=1, iter=iterations
        )
        hook = EpochSeedHook()
        hook.before_train(runner)
        hook.before_train_epoch(runner)
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[2] != drawn[1]
