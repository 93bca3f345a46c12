"""What tests/upstream/run.py names is there; the run itself is not for every day."""

import ast
import importlib.util

import pytest
from wheels import ROOT

SPEC = importlib.util.spec_from_file_location('run', ROOT / 'tests/upstream/run.py')
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def test_tests_to_run_exist():
    assert all((ROOT / name).exists() for name in script.TESTS)


@pytest.mark.parametrize('name', script.DESELECTED)
def test_deselected_tests_exist(name):
    file, _, function = name.partition('[')[0].partition('::')
    assert any(file.startswith(chosen) for chosen in script.TESTS)
    tree = ast.parse((ROOT / file).read_text())
    assert not function or function in [
        node.name for node in tree.body if hasattr(node, 'name')
    ]


@pytest.mark.parametrize('version', [(3, 9, 1), (3, 12, 0)])
def test_a_python_that_torch_does_not_know_ends_in_a_sentence(version):
    with pytest.raises(script.SetupError, match=r'needs Python 3\.10 or'):
        script.check_python(version)
