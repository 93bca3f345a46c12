"""Make a folder of pictures whole or not at all, and only where it is not there yet."""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm


def make_folder(
    out: Path,
    stamp: str,
    settings: object,
    write: Callable[[Path], Iterator[None]],
    total: int,
) -> bool:
    """Make ``out`` unless it is current: write beside it, then move into place.

    Args:
        out (Path): Folder to make; replaced only if this tool made it.
        stamp (str): Name of the file in it that holds ``settings``.
        settings (object): What to make, a dataclass.
        write (Callable): Writes into an empty folder, and yields after every picture.
        total (int): Pictures.

    Returns:
        bool: False if there was nothing to do.

    Raises:
        FileExistsError: If ``out`` holds something else than this tool's data.
    """
    text = json.dumps(dataclasses.asdict(settings), indent=2) + '\n'
    if is_current(out / stamp, text):
        return False
    if out.exists() and not (out / stamp).is_file() and any(out.iterdir()):
        raise FileExistsError(f'{out} holds other files; choose another --out')
    out.parent.mkdir(parents=True, exist_ok=True)
    # As a context: also an interruption leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as scratch:
        fresh = Path(scratch, 'new')
        fresh.mkdir()
        for _ in tqdm(write(fresh), 'drawing', total, disable=None):
            pass
        (fresh / stamp).write_text(text)
        if out.exists():
            out.rename(Path(scratch, 'old'))
        fresh.rename(out)
    return True


def is_current(stamp: Path, text: str) -> bool:
    """Whether a stamp says the same."""
    try:
        return json.loads(stamp.read_text()) == json.loads(text)
    except (OSError, ValueError):
        return False
