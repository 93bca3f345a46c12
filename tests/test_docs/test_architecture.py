"""The picture of the rooms shows the imports that there are."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'mmmanikey'
PAGE = (ROOT / 'docs/architecture.md').read_text('utf-8')


def modules_of(room):
    """Its modules, without a command line of its own."""
    paths = (PACKAGE / room).rglob('*.py')
    return [path for path in paths if path.name != '__main__.py']


ROOMS = sorted(path.parent.name for path in PACKAGE.glob('*/__init__.py'))
BESIDE = sorted(PACKAGE.glob('*.py'))


def imported_by(path):
    """What a module imports of the package: the first part of each name."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.ImportFrom):
            if node.level == 0:
                base = node.module.split('.')
                if base.pop(0) != 'mmmanikey':
                    continue
            else:
                base = [*package[: len(package) - node.level + 1]]
                base += node.module.split('.') if node.module else []
            for alias in node.names:
                yield [*base, alias.name][0]
        elif isinstance(node, ast.Import):
            names = [alias.name.split('.') for alias in node.names]
            yield from (
                name[1] for name in names if name[0] == 'mmmanikey' and name[1:]
            )


@pytest.fixture(scope='module')
def drawing():
    sys.path.insert(0, str(ROOT / 'docs'))
    try:
        import draw_architecture
    finally:
        sys.path.remove(str(ROOT / 'docs'))
    return draw_architecture


def test_every_room_is_drawn_and_described(drawing):
    assert sorted(drawing.ROOMS) == ROOMS
    assert sorted(re.findall(r'^\| `(\w+)/` \|', PAGE, re.MULTILINE)) == ROOMS


@pytest.mark.parametrize('room', ROOMS)
def test_the_arrows_are_the_imports(drawing, room):
    found = {name for path in modules_of(room) for name in imported_by(path)}
    assert found & {*ROOMS} - {room} == drawing.IMPORTS[room]


def test_modules_beside_the_rooms(drawing):
    """They serve all rooms: of these they may know the rule of the forms alone."""
    for path in BESIDE:
        assert {*imported_by(path)} & {*ROOMS} <= {'forms'}, path
        if path.stem not in ('__init__', 'version'):
            assert f'`{path.stem}`' in PAGE


def test_the_committed_picture_is_the_drawn_one(drawing):
    told = json.loads(Image.open(drawing.OUT).info['Description'])
    assert told == {name: sorted(rooms) for name, rooms in drawing.IMPORTS.items()}
