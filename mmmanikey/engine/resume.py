"""What MMEngine lacks for a resumed training to equal one that was never stopped.

MMEngine (https://mmengine.readthedocs.io/en/latest/common_usage/resume_training.html)
stores weights, optimiser, schedules and averages, but not the states of the random
generators, and it removes old checkpoints before the new one is there. So here:

- :class:`EpochSeedHook` gives every epoch random numbers of its own, a function of the
  seed and the iterations done; there is then nothing to store.
- :class:`WholeCheckpointHook` writes checkpoints whole or not at all, removes older
  ones only then, and repeats the validation of the one that a training goes on from.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
    set_random_seed,
)
from torch.utils.data import DataLoader

from ..checkpoint.files import CheckpointError, is_local
from ..moving import bring_back, discard, draft_of, put_in_place, write_whole
from ..overrides import overridden
from ..registry import HOOKS
from .together import failing_together

MARKER = 'last_checkpoint'  # MMEngine's file that names the last checkpoint


def last_checkpoint(work_dir: str) -> str | None:
    """The last checkpoint that was written whole, also if its folder has moved.

    Args:
        work_dir (str): The work dir of the training.

    Returns:
        str | None: A file or a folder; None if there was none yet.

    Raises:
        CheckpointError: If the file that names it is empty.
    """
    marker = Path(work_dir, MARKER)
    if not marker.is_file():
        return None
    recorded = Path(marker.read_text().strip())
    if not recorded.name:  # MMEngine's own hook was killed while it wrote
        raise CheckpointError(
            f'{marker} is empty; give --resume the checkpoint to go on from'
        )
    beside = marker.with_name(recorded.name)
    for place in (beside, recorded):
        bring_back(place)
        if place.exists():
            return str(place)
    return str(recorded)


def is_stock(hook: type | str) -> bool:
    """Whether a config names MMEngine's own ``CheckpointHook``."""
    if isinstance(hook, str):
        return bool(re.fullmatch(r'(mmengine\.(.*\.)?)?CheckpointHook', hook))
    return hook is CheckpointHook


def resume_exactly(cfg: Config) -> None:
    """Add the hooks of this module to a config without them, as the shipped ones have.

    Another checkpoint hook stays.

    Args:
        cfg (Config): A Runner's config, changed in place.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    # as the Runner does where the config has none
    checkpoint = hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint and is_stock(checkpoint['type']):
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

    priority = 'VERY_HIGH'  # before all hooks that draw random numbers

    def before_train(self, runner: Runner) -> None:
        """Give the sampler the seed of the run.

        Samplers are built before the checkpoint is read. Where the config has no seed,
        the one drawn at the first start is in the checkpoint.
        """
        loader = runner.train_dataloader
        # Loaders of mmpretrain's vis_scheduler.py are lists of numbers.
        batches = getattr(loader, 'batch_sampler', None)
        sampler = getattr(batches, 'sampler', None)
        if not hasattr(sampler, 'seed'):
            return
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        built_from = runner._train_dataloader
        config = built_from['sampler'] if isinstance(built_from, dict) else None
        if isinstance(config, dict):
            # It may have been asked for images already, and then goes on with its seed.
            anew = DATA_SAMPLERS.build(
                config, default_args=dict(dataset=loader.dataset, seed=seeds[0])
            )
            vars(sampler).update(vars(anew))
        sampler.seed = seeds[0]

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this process, and with it the workers that it will start."""
        entropy = np.random.SeedSequence([runner.seed, runner.iter, get_rank()])
        set_random_seed(int(entropy.generate_state(1)[0]))
        loader = runner.train_dataloader
        if not isinstance(loader, DataLoader):
            return
        # MMEngine's function gives workers the same seed at each start. Without it they
        # get torch's, drawn from the generators seeded above.
        if getattr(loader.worker_init_fn, 'func', None) is worker_init_fn:
            loader.worker_init_fn = None
        loader._iterator = None  # it keeps persistent workers alive
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            # In upstream's MMEngine it has its workers, and their images, since the
            # loop was made: before the seed of the run was known.
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)


class WholeFileBackend(LocalBackend):
    """Local files, and folders of which no part is left when their removal is cut."""

    def rmtree(self, dir_path: str | Path) -> None:
        """Remove a folder."""
        discard(Path(dir_path))


register_backend('mmmanikey.whole', WholeFileBackend)


def all_write(place: Path, write: Callable[[], object] | None) -> None:
    """Write in all processes, each its part, and wait for them.

    Args:
        place (Path): For what they write; its draft is removed if one of them fails.
        write (Callable[[], object], optional): What this process does, if anything.

    Raises:
        CheckpointError: In all processes, if one of them cannot write.
    """
    try:
        with failing_together(CheckpointError):
            try:
                if write:
                    write()
            except OSError as error:
                raise CheckpointError(
                    f'cannot write {place}: {error.strerror or error}; once it can be '
                    f'written, --resume goes on from the checkpoint before'
                ) from error
    except Exception:
        if is_main_process():
            discard(draft_of(place))
        raise


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's hook, but an interruption at any time leaves a whole checkpoint.

    First the new checkpoint is written, then ``last_checkpoint`` names it, then the
    outdated one goes: for a moment there is one more than ``max_keep_ckpts``. A
    checkpoint may be a folder to which all processes write, as those of DeepSpeed and
    of FSDP's sharded state dicts are: it takes its place when the last has finished.
    Other storages than local files keep MMEngine's way of writing. The arguments are
    those of MMEngine's hook.
    """

    def before_train(self, runner: Runner) -> None:
        """Prepare to write, and clear away what an interruption has left."""
        self.whole = is_local(self.out_dir or '') and not (
            self.backend_args or self.file_client_args
        )
        if self.whole:
            self.backend_args = dict(backend='mmmanikey.whole')
        super().before_train(runner)
        if self.whole and is_main_process():
            folder, suffix = Path(self.out_dir), Path(self.filename_tmpl).suffix
            for draft in folder.glob(f'.*{suffix}*.tmp'):
                discard(draft)
            for aside in folder.glob(f'.*{suffix}*.old'):
                bring_back(aside.with_name(aside.stem[1:]))
                discard(aside)  # where something has taken its place
        self._validate_again(runner)

    def _validate_again(self, runner: Runner) -> None:
        """Validate what a training goes on from, where that was due.

        A checkpoint is written before its validation: it holds neither the result nor
        the best score.
        """
        loop = runner.train_loop
        kind = EpochBasedTrainLoop if self.by_epoch else IterBasedTrainLoop
        if runner.val_loop is None or not isinstance(loop, kind):
            return
        done, last = loop.iter, loop.max_iters
        if self.by_epoch:
            done, last = loop.epoch, loop.max_epochs
        loop._decide_current_val_interval()
        due = done % loop.val_interval == 0 or done == last
        if due and done >= max(1, loop.val_begin):
            runner.val_loop.run()

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        if Path(ckpt_path).is_dir():
            runner.logger.warning(f'{ckpt_path} is a folder and cannot be published')
        else:
            super()._publish_model(runner, ckpt_path)

    def _save_checkpoint(self, runner: Runner) -> None:
        with self._whole(runner):
            super()._save_checkpoint(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._whole(runner):
            super()._save_best_checkpoint(runner, metrics)

    def _whole(self, runner: Runner) -> AbstractContextManager:
        """Within it, ``runner.save_checkpoint`` writes whole or not at all."""
        if not self.whole:
            return nullcontext()
        save = partial(self._save_whole, runner.save_checkpoint)
        return overridden(vars(runner), save_checkpoint=save)

    def _save_whole(
        self, save: Callable, out_dir: str, filename: str, *args, **kwargs
    ) -> None:
        place = Path(out_dir, filename)
        draft = draft_of(place)
        # in a folder every process writes its part
        all_write(place, partial(save, out_dir, draft.name, *args, **kwargs))
        move = partial(put_in_place, draft, place) if is_main_process() else None
        all_write(place, move)

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
        marker, content = Path(runner.work_dir, MARKER), self.last_ckpt
        mark = partial(write_whole, marker, lambda draft: draft.write_text(content))
        all_write(marker, mark if is_main_process() else None)
        if not is_main_process():
            return
        for old in outdated:
            path = self.file_backend.join_path(
                self.out_dir, self.filename_tmpl.format(old)
            )
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)
