"""Checkpoint files: read without running what is in them, written whole or not at all.

A pickle can run any code when it is read, and checkpoints come from strangers. So files
are read with torch's ``weights_only=True``
(https://docs.pytorch.org/docs/stable/notes/serialization.html), whichever of mmengine's
loaders brings them. What mmengine's trainings store besides tensors and plain values is
allowed by name, and their logs become stand-ins that do nothing.
"""

import argparse
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_http

from ..moving import write_whole
from ..overrides import overridden
from .older_torch import safe_pickle
from .safe_tensors import PATTERNS, is_safetensors, read_safetensors, to_safetensors

#: torch's own variables for reading every pickle, and for reading none but safe ones.
TRUST, DISTRUST = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
#: Whether this torch can be told what to allow (since 2.5).
HAS_ALLOW_LIST = hasattr(torch.serialization, 'safe_globals')


class CheckpointError(ValueError):
    """A file that cannot be read or does not fit, told in one sentence."""


class StandIn:
    """In place of mmengine's ``HistoryBuffer``: keeps its state and does nothing."""


def no_method(*_) -> None:
    """In place of ``getattr``, by which the methods of a ``HistoryBuffer`` are kept."""


#: Allowed besides tensors and plain values: (object, its name in the file), or a class.
ALLOWED = [
    argparse.Namespace,  # the settings in files of DeiT and its descendants
    (OrderedDict, 'yacs.config.CfgNode'),  # those in files of Swin and SimMIM
    (StandIn, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (no_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in '?bBhHiIlLqQefd'},
    *(
        (function, f'numpy.{core}.multiarray.{name}')  # numpy 1 and 2
        for core in ('core', '_core')
        for function, name in (
            (np.zeros(1).__reduce__()[0], '_reconstruct'),
            (np.float64(1).__reduce__()[0], 'scalar'),
        )
    ),
]


def is_local(checkpoint: str) -> bool:
    """Whether ``checkpoint`` is a path rather than a URL or a model-zoo name."""
    return '://' not in str(checkpoint)


def is_trusted() -> bool:
    """Whether the user asks torch to read every pickle, by its own variable."""
    return os.getenv(TRUST, '0') in ('1', 'y', 'yes', 'true')


@contextmanager
def safe_reading() -> Iterator[None]:
    """Make every ``torch.load`` inside refuse what could run code, unless trusted.

    mmengine's loaders, and torch.hub's below them, ask for full unpickling.
    """
    if is_trusted():
        yield
        return
    with ExitStack() as stack:
        enter = stack.enter_context
        # some versions of mmengine allow getattr and their own logs by the same names
        loaders = vars(mmengine.runner.checkpoint)
        enter(overridden(loaders, get_torch_safe_globals=list))
        if HAS_ALLOW_LIST:
            enter(overridden(os.environ, **{DISTRUST: '1'}))
            enter(torch.serialization.safe_globals(ALLOWED))
        else:
            pickle = safe_pickle(ALLOWED)
            enter(overridden(vars(torch.serialization), pickle=pickle))
        yield


@contextmanager
def refusing_unsafe(checkpoint: str) -> Iterator[None]:
    """As :func:`safe_reading`, for frameworks that read ``checkpoint`` themselves.

    Raises:
        CheckpointError: If it holds more than tensors and plain values.
    """
    try:
        with safe_reading():
            yield
    except UnpicklingError as error:
        raise CheckpointError(why_unreadable(checkpoint, error)) from error


def read_checkpoint(checkpoint: str | os.PathLike) -> object:
    """Read a file onto the CPU without running code that it may hold.

    Args:
        checkpoint (str | os.PathLike): Path, URL or zoo name. All but paths go through
            mmengine's loaders, which keep downloads in torch.hub's folder.

    Returns:
        object: What the file holds, usually a dict.

    Raises:
        FileNotFoundError: If a local file is missing.
        CheckpointError: If it cannot be read, or holds more than tensors and plain
            values and ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` is not set to 1.
    """
    checkpoint = os.path.expanduser(checkpoint)
    if os.path.isdir(checkpoint):
        raise CheckpointError(f'{checkpoint} is a folder, not a checkpoint')
    if is_local(checkpoint) and not os.path.isfile(checkpoint):
        raise FileNotFoundError(f'checkpoint not found: {checkpoint}')
    try:
        if is_safetensors(checkpoint):
            return read_safetensors_from(checkpoint)
        with safe_reading():
            if is_local(checkpoint):
                return torch.load(
                    checkpoint,
                    map_location='cpu',
                    weights_only=HAS_ALLOW_LIST and not is_trusted(),
                )
            return CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(why_unreadable(checkpoint, error)) from error


def read_safetensors_from(checkpoint: str) -> dict:
    """As :func:`read_safetensors`, also of a URL, which mmengine downloads."""
    if is_local(checkpoint):
        return read_safetensors(checkpoint)
    with overridden(vars(torch), load=lambda file, **_: read_safetensors(file)):
        return load_from_http(checkpoint, model_dir=download_folder(checkpoint))


@CheckpointLoader.register_scheme(PATTERNS, force=True)
def load_from_safetensors(filename: str, map_location: object = None) -> dict:
    """mmengine's loader of this format, for all who read by mmengine."""
    return read_checkpoint(filename)


def download_folder(url: str) -> str:
    """Folder that a download is kept in.

    torch.hub's is one for all; on hubs every model is called ``model.safetensors``.
    """
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    if is_safetensors(url):
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        folder = os.path.join(folder, name)
    return folder


def why_unreadable(checkpoint: str, error: Exception) -> str:
    """One sentence on why ``checkpoint`` could not be read."""
    if refused := re.search(r"(?:GLOBAL |got <class '(?=numpy))([^\s']+)", str(error)):
        return (
            f'{checkpoint} holds {refused[1]}, which could run code when it is read; '
            f'set {TRUST}=1 if you trust the file'
        )
    kind = 'safetensors file' if is_safetensors(checkpoint) else 'checkpoint of torch'
    if is_local(checkpoint) and not isinstance(error, PermissionError):
        return f'{checkpoint} is no {kind}, or a damaged one'
    if isinstance(error, OSError):
        return f'cannot read {checkpoint}: {error}'
    if not checkpoint.startswith(('http://', 'https://')):
        return f'cannot load {checkpoint}: {type(error).__name__} {error}'
    name = os.path.basename(urlparse(checkpoint).path)
    return (
        f'{checkpoint} is no {kind}, or its download is damaged: remove '
        f'{os.path.join(download_folder(checkpoint), name)} to repeat it'
    )


def atomic_save(
    content: object, path: str | os.PathLike, add_hash: bool = False
) -> Path:
    """``torch.save`` by :func:`.write_whole`, which has the other arguments.

    A path that ends in .safetensors gets that format, see ``safe_tensors.py``.
    """

    def write(draft: Path) -> None:
        # torch writes the name of a file that it opens itself into it
        with draft.open('wb') as file:
            if is_safetensors(path):
                file.write(to_safetensors(content))
            else:
                torch.save(content, file)

    return write_whole(path, write, add_hash)
