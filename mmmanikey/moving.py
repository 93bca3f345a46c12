"""Files and folders that take their place whole, and are there after a power failure.

Other processes see a rename as one step. But the disk may get it before the content of
the file, or not at all, unless the system is asked to flush both:
https://man7.org/linux/man-pages/man2/fsync.2.html.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_whole(
    path: str | os.PathLike, write: Callable[[Path], object], add_hash: bool = False
) -> Path:
    """Write a file whole or not at all, also when the writing is interrupted.

    Args:
        path (str | os.PathLike): The file. Its folder is made.
        write (Callable[[Path], object]): Writes a file of another name, with the same
            suffix, which then takes the place of ``path``. A process that is killed
            meanwhile leaves it as ``.PID.name``.
        add_hash (bool): Put the first 8 digits of the file's SHA-256 into its name,
            ``name-1234abcd.pth``, as torch.hub checks it. Defaults to False.

    Returns:
        Path: The file written.

    Raises:
        OSError: If it cannot be written, such as where a folder has its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        write(draft)
        if add_hash:
            digits = sha256_of(draft)[:8]
            path = path.with_name(f'{path.stem}-{digits}{path.suffix}')
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, 'it is a folder', str(path))
        put_in_place(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest()


def draft_of(place: Path) -> Path:
    """Where to write a file or folder before it is moved to ``place``."""
    return place.with_name(f'.{place.name}.tmp')


def put_in_place(draft: Path, place: Path) -> None:
    """Move a complete file or folder to its place, in which an older one may be.

    No rename replaces a folder that has files. An older one is moved aside first, so an
    interruption can leave nothing at ``place``: :func:`bring_back` undoes it.

    Args:
        draft (Path): What was written, in the same folder as ``place``.
        place (Path): Where it goes.

    Raises:
        OSError: If the disk cannot take it.
    """
    for path in [draft, *draft.rglob('*')]:
        flush(path)
    aside = aside_of(place)
    if place.is_dir() or (draft.is_dir() and place.exists()):
        discard(aside)
        place.rename(aside)
    os.replace(draft, place)
    flush(place.parent)
    discard(aside)


def bring_back(place: Path) -> None:
    """Undo what an interrupted :func:`put_in_place` did to the older folder, if any.

    Several processes may do it at once.
    """
    if not place.exists():
        with suppress(OSError):
            aside_of(place).rename(place)


def aside_of(place: Path) -> Path:
    """Where an older folder is while another takes its place."""
    return place.with_name(f'.{place.name}.old')


def discard(path: Path) -> None:
    """Remove a file or folder; an interruption leaves no part of it under its name."""
    if path.is_dir():
        remains = draft_of(path)
        shutil.rmtree(remains, ignore_errors=True)
        path.rename(remains)
        shutil.rmtree(remains)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the system write a file, or the entries of a folder, to the disk."""
    folder = path.is_dir()
    if folder and os.name == 'nt':  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems have no fsync for folders
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
