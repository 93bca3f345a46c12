"""Files written whole or not at all, also when the writing is interrupted."""

import os
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from ..moving import put_in_place


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, and move it there when it is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        write(temporary)
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    write_whole(path, lambda file: file.write_text(text, encoding='utf-8'))


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure, in the format of the file's suffix."""
    write_whole(path, lambda file: figure.savefig(file, dpi=dpi))


def wrapped(count: int, longest: int) -> tuple[int, int]:
    """How many lines of how many columns hold ``count`` maps, at most ``longest``."""
    lines = -(-count // longest)
    return lines, -(-count // lines)
