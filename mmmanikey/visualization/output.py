"""Texts and figures as files, written whole or not at all."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from ..engine.cli import UsageError
from ..moving import write_whole


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    write_or_tell(path, lambda draft: draft.write_text(text, encoding='utf-8'))


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure, in the format of the file's suffix."""
    write_or_tell(path, lambda draft: figure.savefig(draft, dpi=dpi))


def write_or_tell(path: Path, write: Callable[[Path], object]) -> None:
    """As :func:`..moving.write_whole`, for tools.

    Raises:
        UsageError: If it cannot be written.
    """
    try:
        write_whole(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f'cannot write {str(path)!r}: {reason}') from error


def wrapped(count: int, longest: int) -> tuple[int, int]:
    """How many lines of how many columns hold ``count`` maps, at most ``longest``."""
    lines = -(-count // longest)
    return lines, -(-count // lines)
