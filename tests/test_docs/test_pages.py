"""Pages with code, run as a reader runs it: block after block, in one namespace."""

import contextlib
import io
import re

import pages
import pytest
from mmdet.utils import register_all_modules

from mmmanikey.checkpoint.layouts import LAYOUTS
from mmmanikey.registry import KEYS


@pytest.fixture(autouse=True)
def own_layouts_go_again():
    shipped = [*LAYOUTS]
    yield
    LAYOUTS[:] = shipped


@pytest.mark.parametrize('page', ['tutorial.md', 'extending.md'])
def test_page(page, tmp_path, monkeypatch):
    """A block prints what the ```text block after it shows, and else nothing.

    A ```py block that begins with the name of a file is that file.
    """
    (tmp_path / 'configs').symlink_to(pages.ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(KEYS, '_module_dict', dict(KEYS.module_dict))
    # Some distributions print a notice at their first import.
    register_all_modules(init_default_scope=False)
    blocks = pages.blocks(page)
    assert sum(block.language == 'python' for block in blocks) >= 3
    namespace = {'__name__': '__main__'}
    for block, following in zip(blocks, [*blocks[1:], None]):
        if block.language == 'py' and (name := re.match(r'# (\S+\.py)\n', block.text)):
            (tmp_path / name[1]).write_text(block.text)
        if block.language != 'python':
            continue
        # Tracebacks name the page and its line.
        source = '\n' * (block.line - 1) + block.text
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f'docs/{page}', 'exec'), namespace)
        is_shown = following is not None and following.language == 'text'
        expected = following.text if is_shown else ''
        found = [line.rstrip() for line in printed.getvalue().splitlines()]
        assert found == expected.splitlines(), f'the block at line {block.line}'


#: Files that a reader writes.
YOURS = {f'configs/{name}.py' for name in ('parts', 'weighted', 'retinanet', 'upernet')}
YOURS |= {'configs/segmentation/roads.py'}
FILE = re.compile(
    r'(?<![\w/.-])((?:benchmarks|configs|docs|requirements|studies|tests|tools)/'
    r'[\w/.-]+\.\w+)'
)
TARGET = re.compile(r'(?:`|^)make ([\w-]+)', re.MULTILINE)


def test_tools_files_and_targets_that_pages_name_are_there():
    makefile = (pages.ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([\w-]+):', makefile, re.MULTILINE))
    texts = [path.read_text() for path in (pages.ROOT / 'docs').glob('*.md')]
    texts += [
        (pages.ROOT / name).read_text() for name in ('README.md', 'CONTRIBUTING.md')
    ]
    files = {name for text in texts for name in FILE.findall(text)}
    named = {name for text in texts for name in TARGET.findall(text)}
    assert len(files) > 40
    assert len(named) > 10
    assert {name for name in files if not (pages.ROOT / name).exists()} == YOURS
    assert named <= targets
