"""The fenced blocks of the documentation's pages."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text and the line of the page it begins at."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The blocks of docs/<page> in their order."""
    text = (ROOT / 'docs' / page).read_text()
    return [
        Block(match[1], match[2], text.count('\n', 0, match.start(2)) + 1)
        for match in FENCE.finditer(text)
    ]
