"""What mmdet, mmseg and mmpretrain ship to be run, and what comes of it with ours.

``docs/ecosystem.md`` shows this table. ``test_table.py`` runs what has a command here,
and checks that the table knows every script of ``.mim/tools`` and every name of
``apis`` that is installed.
"""

from typing import NamedTuple

from entries_mmdet import MMDET
from entries_mmpretrain import MMPRETRAIN
from entries_mmseg import MMSEG


class Entry(NamedTuple):
    """What is run, what comes of it, and how that is seen.

    Attributes:
        framework (str): The package.
        what (str): Scripts below ``.mim/tools``, by pattern, or names of its ``apis``.
        result (str): :data:`outcomes.WORKS`, or why it is not counted as working.
        command (str): Arguments of the script, or Python code where names of ``apis``
            are run. Names in braces are files, see ``test_table.py``.
        gives (str): A file that is there afterwards, or what the last output matches.
        test (str): The test that shows it, where that is another than this table's.
        stock (str): What comes of it with a stock config, where that is another result.
    """

    framework: str
    what: str
    result: str
    command: str = ''
    gives: str = ''
    test: str = ''
    stock: str = ''

    @property
    def on_stock(self) -> str:
        """What comes of it with a stock config."""
        return self.stock or self.result

    @property
    def seen_on_stock(self) -> str:
        """The same in words, empty where neither a test nor a hand ran it."""
        was_run = self.command or self.test or 'by hand' in self.result
        return self.stock or ('the same' if was_run else '')

    @property
    def is_code(self) -> bool:
        """Whether the command is Python code and no script's arguments."""
        return '\n' in self.command


TABLE = [
    Entry(framework, *row)
    for framework, rows in (
        ('mmdet', MMDET),
        ('mmseg', MMSEG),
        ('mmpretrain', MMPRETRAIN),
    )
    for row in rows
]


def tables() -> str:
    """The table as Markdown, for the documentation."""
    parts = []
    for framework in dict.fromkeys(entry.framework for entry in TABLE):
        rows = [
            f'| {", ".join(f"`{name}`" for name in entry.what.split(", "))} '
            f'| {entry.result} | {entry.seen_on_stock} |'
            for entry in TABLE
            if entry.framework == framework
        ]
        head = ['| what | with ours | with a stock config |', '|---|---|---|']
        parts.append('\n'.join([f'## {framework}', '', *head, *rows]))
    return '\n\n'.join(parts)
