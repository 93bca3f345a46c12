"""The Runner of a tool: built, and its errors in one sentence where a user can help."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoint.files import CheckpointError
from .cli import LocalError, UsageError
from .data import explain_read_error, flaw_in_config, flaw_in_dataset
from .launch import prepare_launch
from .together import failing_together


def build_runner(cfg: Config) -> Runner:
    """The Runner that the config describes.

    Raises:
        UsageError: If the work dir cannot be made, or a part of ours refuses its
            arguments.
    """
    folder = cfg.get('work_dir') or '.'
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f'work dir {folder!r}: {error.strerror}') from error
    prepare_launch(cfg)
    try:
        return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except Exception as error:
        if reason := sentence_of_ours(error):
            raise UsageError(reason) from error
        raise


def modules_of(error: Exception) -> list[str]:
    """The modules that an error passed through, its origin last."""
    frames = traceback.walk_tb(error.__traceback__)
    return [frame.f_globals.get('__name__', '') for frame, _ in frames]


def sentence_of_ours(error: Exception) -> str | None:
    """What an error says that our code raised itself, or None."""
    line = traceback.extract_tb(error.__traceback__)[-1].line or ''
    if modules_of(error)[-1].startswith('mmmanikey.') and line.startswith('raise'):
        return f'{type(error).__name__}: {error}'
    return None


def is_from_data(error: Exception) -> bool:
    """Whether an error comes from building or reading a dataset, also in a worker."""
    return 'in DataLoader worker' in str(error) or any(
        '.dataset' in name for name in modules_of(error)
    )


@contextmanager
def checked_data(runner: Runner, *phases: str) -> Iterator[None]:
    """Check the data of the phases; explain errors of reading it within the block.

    Of several processes only the main one checks, since it opens every image.

    Raises:
        UsageError: If an annotation file has a flaw, the classes do not fit it or the
            model, an image is missing or damaged, or a package that reads it is; or if
            a part of ours refuses what it is given.
    """
    datasets, kind = [], UsageError
    try:
        with failing_together(UsageError):
            for phase in phases:
                if not runner.cfg.get(f'{phase}_dataloader'):
                    continue
                dataset = getattr(runner, f'{phase}_dataloader').dataset
                datasets.append(dataset)
                trained = runner.cfg.get('model') if phase == 'train' else None
                if is_main_process() and (
                    flaw := flaw_in_dataset(dataset, trained or {})
                ):
                    raise UsageError(flaw)
        kind = LocalError  # from here on each process goes on by itself
        yield
    except (UsageError, CheckpointError):
        raise
    except Exception as error:  # whatever the frameworks make of a flaw in the data
        reason = sentence_of_ours(error) or explain_read_error(error, datasets)
        if reason is None and is_from_data(error):
            flaws = (flaw_in_config(runner.cfg, phase) for phase in phases)
            reason = next(filter(None, flaws), None)
        if reason is None:
            raise
        raise kind(reason) from error
