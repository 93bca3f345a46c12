"""What tests/upstream/run.py names is there; the run itself is not for every day."""

import ast
import importlib.util
import re

import pytest
from packaging.requirements import Requirement
from wheels import ROOT

# Private names of torch that the package uses; torch 2.1 has all of them but the last,
# which only exporting needs.
PRIVATE = {
    'torch._C',
    'torch._C._functorch',
    'torch._utils',
    'torch._C._DisableAutocast',
    'torch._C._functorch.is_batchedtensor',
    'torch._C._functorch.peek_interpreter_stack',
    'torch._C._len_torch_dispatch_stack',
    'torch._foreach_copy_',
    'torch._subclasses.FakeTensorMode',
    'torch._utils.is_compiling',
    'torch._weights_only_unpickler._get_allowed_globals',
    'torch.autograd.forward_ad._current_level',
    'torch.ops.aten._scaled_dot_product_efficient_attention',
    'torch.ops.aten._scaled_dot_product_efficient_attention_backward',
    'torch.ops.aten._softmax_backward_data',
    'torch.ops.mkldnn._linear_pointwise',
    'torch.ops.mkldnn._linear_pointwise.binary',
    'torch.overrides._get_current_function_mode_stack',
    'torch.utils._device.DeviceContext',
    'torch.utils._python_dispatch._disable_current_modes',
    'torch.utils._python_dispatch._get_current_dispatch_mode_stack',
    'torch.fx.experimental._config',
}

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


def test_packages_of_the_tests_allow_the_versions_that_are_pinned():
    lines = script.CONSTRAINTS.read_text().splitlines()
    pins = dict(line.split('==') for line in lines if '==' in line)
    for line in script.packages_of_tests():
        package = Requirement(line)
        pinned = pins.get(package.name)
        assert pinned is None or package.specifier.contains(pinned), line


def dotted(node):
    """The name that an attribute is written as, such as 'torch.nn.Linear'."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return '.'.join([getattr(node, 'id', ''), *parts])


def private_names(source):
    """Private names of torch in a file; words that hasattr is asked are none."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            names.add(dotted(node))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f'{node.module}.{each.name}' for each in node.names}
    return {name for name in names if re.match(r'torch\.(.*\.)?_[a-zA-Z]', name)}


def test_private_names_are_those_that_torch_2_1_has():
    """Who adds one sees by ``make test-upstream`` that it is there."""
    files = (ROOT / 'mmmanikey').rglob('*.py')
    names = set().union(*(private_names(file.read_text()) for file in files))
    assert names == PRIVATE


@pytest.mark.parametrize('version', [(3, 9, 1), (3, 12, 0)])
def test_a_python_that_torch_does_not_know_ends_in_a_sentence(version):
    with pytest.raises(script.SetupError, match=r'needs Python 3\.10 or'):
        script.check_python(version)
