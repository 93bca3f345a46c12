"""Files that are either whole or not there."""

import os
from pathlib import Path

import torch


def atomic_save(content, path: str | os.PathLike) -> None:
    """Save with ``torch.save``; an interruption leaves the old file, or none.

    Args:
        content (object): What ``torch.save`` takes.
        path (str | os.PathLike): The file, in a folder that exists.
    """
    path = Path(path)
    draft = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        torch.save(content, draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
