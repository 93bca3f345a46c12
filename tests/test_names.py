"""One name for one thing, and one place for what is needed in several."""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / 'mmmanikey').rglob('*.py'))
TOOLS = sorted((ROOT / 'tools').rglob('*.py'))
#: A family of networks has a file of its own in each room that deals with families.
FAMILIES = {'swin', 'vit'}


def defined(path):
    """Names of the functions, classes and constants of a module."""
    for node in ast.parse(path.read_text('utf-8')).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id


def twice(pairs):
    places = defaultdict(list)
    for name, place in pairs:
        places[name].append(str(place.relative_to(ROOT)))
    return {name: where for name, where in places.items() if len(where) > 1}


def test_no_two_things_of_one_name():
    pairs = ((name, path) for path in PACKAGE for name in set(defined(path)))
    assert not twice(p for p in pairs if not p[0].startswith('_') and p[0] != 'main')


def test_no_two_modules_of_one_name():
    # files of forms are named after what they stand in for
    house = [path for path in PACKAGE if 'forms' not in path.parts]
    modules = [path for path in house if not path.stem.startswith('__')]
    assert not twice((m.stem, m) for m in modules if m.stem not in FAMILIES)


def test_no_tool_hides_a_module_of_python():
    """Python puts a script's folder first on its path."""
    beside = {p.stem for p in TOOLS if not p.with_name('__init__.py').exists()}
    assert not beside & sys.stdlib_module_names


#: What happens in one file of the package and the tools, and where.
ONCE = {
    'build a model': (r'\bMODELS\.build\(', 'mmmanikey/engine/build.py'),
    'count FLOPs': (r'\bFlopCounterMode\b', 'mmmanikey/engine/macs.py'),
    'put a file in its place': (r'\bos\.replace\(', 'mmmanikey/moving.py'),
    'tell local from remote': (r"""['"]://['"]""", 'mmmanikey/checkpoint/files.py'),
}
#: These make data and environments, before the package can be imported.
BEFORE = {'tools/build_mmcv.py', 'tools/environment/venv.py'}


@pytest.mark.parametrize('what', ONCE)
def test_one_helper(what):
    pattern, place = ONCE[what]
    found = {
        str(path.relative_to(ROOT))
        for path in [*PACKAGE, *TOOLS]
        if re.search(pattern, path.read_text('utf-8'))
    }
    assert found - BEFORE == {place}


def test_no_tool_of_tests_outside_of_tests():
    used = re.compile(r'^\s*(import|from) (unittest|pytest)', re.MULTILINE)
    assert not [p for p in [*PACKAGE, *TOOLS] if used.search(p.read_text('utf-8'))]
