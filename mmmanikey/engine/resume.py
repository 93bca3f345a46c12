"""Resuming a training equals not having stopped it: what MMEngine leaves to do.

MMEngine (https://mmengine.readthedocs.io/en/latest/common_usage/resume_training.html)
stores weights, optimiser, schedules and averages. It does not store where the random
numbers stand, and it removes old checkpoints before the new one is there. So here:

- :class:`EpochSeedHook` gives every epoch random numbers of its own, a function of the
  seed and the iterations done; there is then nothing to store.
- :class:`WholeCheckpointHook` writes checkpoints whole or not at all, and removes older
  ones only then.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner, set_random_seed

from ..checkpoint.files import CheckpointError, is_local, write_whole
from ..registry import HOOKS

MARKER = 'last_checkpoint'  # MMEngine's file that names the last checkpoint


def resume_exactly(cfg: Config) -> None:
    """Add the hooks of this module to a config without them, as the shipped ones have.

    Another checkpoint hook stays.

    Args:
        cfg (Config): A Runner's config, changed in place.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    # as the Runner does where the config has none
    checkpoint = hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint and checkpoint['type'] == 'CheckpointHook':
        hooks['checkpoint'] = {**checkpoint, 'type': 'mmmanikey.WholeCheckpointHook'}
    cfg.default_hooks = hooks
    seeding = dict(type='mmmanikey.EpochSeedHook')
    others = [hook for hook in cfg.get('custom_hooks') or [] if hook != seeding]
    cfg.custom_hooks = [*others, seeding]


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed every epoch anew, the workers of the data loader included.

    The seed of an epoch follows from the run's seed, the iterations done and the rank.
    Workers that stay for the next epoch would keep their generators, which no
    checkpoint holds: they are started again.
    """

    priority = 'VERY_HIGH'  # before any hook that draws

    def before_train(self, runner: Runner) -> None:
        """Give the sampler the seed of the run.

        Samplers are built before the checkpoint is read. Where the config has no seed,
        the one drawn at the first start is in the checkpoint.
        """
        sampler = getattr(runner.train_dataloader.batch_sampler, 'sampler', None)
        if hasattr(sampler, 'seed'):
            seeds = [runner.seed]
            broadcast_object_list(seeds)
            sampler.seed = seeds[0]

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this process, and with it the workers that it will start."""
        entropy = np.random.SeedSequence([runner.seed, runner.iter, get_rank()])
        set_random_seed(int(entropy.generate_state(1)[0]))
        loader = runner.train_dataloader
        # MMEngine's function gives workers the same seed at each start. Without it they
        # get torch's, drawn from the generators seeded above.
        if getattr(loader.worker_init_fn, 'func', None) is worker_init_fn:
            loader.worker_init_fn = None
        loader._iterator = None  # persistent workers hang on it


class WholeFileBackend(LocalBackend):
    """Local files that take their place when they are complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Raises:
            CheckpointError: If it cannot be written; an older file is then untouched.
        """
        try:
            write_whole(filepath, lambda file: file.write(obj))
        except OSError as error:
            raise CheckpointError(
                f'cannot write {filepath}: {error.strerror}; once it can be written, '
                f'--resume goes on from the checkpoint before'
            ) from error

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write a text file, as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


register_backend('mmmanikey.whole', WholeFileBackend)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's hook, which an interruption at any time leaves with a checkpoint.

    First the new checkpoint is written, then ``last_checkpoint`` names it, then the
    outdated one goes: for a moment there is one more than ``max_keep_ckpts``. Other
    storages than local files keep MMEngine's way of writing. The arguments are those of
    MMEngine's hook.
    """

    def before_train(self, runner: Runner) -> None:
        """Prepare to write, and clear away what an interrupted write has left."""
        super().before_train(runner)
        if not is_local(self.out_dir) or self.backend_args or self.file_client_args:
            return
        self.backend_args = dict(backend='mmmanikey.whole')
        if is_main_process():
            for leftover in Path(self.out_dir).glob('.*.pth.*.tmp'):
                leftover.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated: Sequence[int] = ()
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids.append(step)  # drops what is outdated
            # With what is outdated: a resumed run removes it if this one cannot.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        WholeFileBackend().put_text(self.last_ckpt, Path(runner.work_dir, MARKER))
        for old in outdated:
            path = self.file_backend.join_path(
                self.out_dir, self.filename_tmpl.format(old)
            )
            with suppress(FileNotFoundError):
                self.file_backend.remove(path)
