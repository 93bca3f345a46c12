"""Each way of looking inside is noticed, and what nobody can tell is not."""

import ast
import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import mmmanikey
from mmmanikey.forms import rule
from mmmanikey.forms.rule import (
    GLOBAL_HOOKS,
    HOOK_DICTS,
    is_exported,
    why_changed,
    why_watched,
)


def network():
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.GELU(), nn.Linear(2, 2)))


def test_an_untouched_network_may_be_replaced():
    assert why_changed(network()) is None
    assert why_watched(torch.ones(2), (3, 4), None) is None


@pytest.mark.parametrize(
    'register',
    [
        'forward_hook',
        'forward_pre_hook',
        'full_backward_hook',
        'full_backward_pre_hook',
        'backward_hook',
    ],
)
def test_hooks_inside(register):
    model = network()
    hook = getattr(model[1][0], f'register_{register}')(lambda *call: None)
    assert why_changed(model) == 'a GELU inside has hooks'
    hook.remove()
    assert why_changed(model) is None


def test_the_modules_own_hooks_run_anyway():
    model = network()
    model.register_forward_hook(lambda *call: None)
    model.forward = model.forward
    assert why_changed(model) is None


@pytest.mark.parametrize(
    'register',
    [
        'register_module_forward_hook',
        'register_module_forward_pre_hook',
        'register_module_full_backward_hook',
        'register_module_full_backward_pre_hook',
    ],
)
def test_global_hooks(register):
    hook = getattr(torch_modules, register)(lambda *call: None)
    try:
        assert why_changed(network()) == 'there is a global module hook'
    finally:
        hook.remove()
    assert why_changed(network()) is None


def test_pytorch_has_these_kinds_of_hooks():
    """A new kind would go unnoticed."""
    layer = nn.Linear(2, 2)
    lists = {name for name in vars(layer) if name.endswith('_hooks')}
    of_state = {name for name in lists if 'state_dict' in name}
    assert lists - of_state == set(HOOK_DICTS)
    lists = {name for name in vars(torch_modules) if name.endswith('_hooks')}
    at_registration = {name for name in lists if 'registration' in name}
    assert lists - at_registration - set(torch_modules.__all__) == set(GLOBAL_HOOKS)


def test_a_forward_that_was_replaced():
    model = network()
    model[0].forward = model[0].forward
    assert why_changed(model) == 'the forward of a Linear inside was replaced'


class Shifted(nn.Linear):
    def shift(self, x):
        return x + 1

    def forward(self, x):
        return self.shift(super().forward(x))


def test_methods_that_were_replaced():
    model = nn.Sequential(Shifted(2, 2))
    model[0].reset_parameters = model[0].reset_parameters  # PyTorch's own
    assert why_changed(model) is None
    assert why_changed(model[0]) is None
    model[0].shift = model[0].shift
    assert why_changed(model) == 'a method of a Shifted was replaced'
    assert why_changed(model[0]) == 'a method of a Shifted was replaced'


def test_the_modules_own_forward_runs_anyway():
    layer = Shifted(2, 2)
    layer.forward = layer.forward
    assert why_changed(layer) is None


class Marked(torch.Tensor):
    """A class of its own."""


def test_weights_of_a_class_of_their_own():
    model = network()
    model[1][1].weight = nn.Parameter(torch.ones(2, 2).as_subclass(Marked))
    assert why_changed(model) == 'a weight is a Marked'
    model = network()
    model[0].register_buffer('table', torch.ones(2).as_subclass(Marked))
    assert why_changed(model) == 'a weight is a Marked'


def test_inputs_of_a_class_of_their_own():
    why = why_watched(None, torch.ones(2).as_subclass(Marked))
    assert why == 'an input is a tensor subclass'


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_modes():
    with Dispatch():
        assert why_watched() == 'a dispatch mode is active'
    with Functions():
        assert why_watched() == 'a function mode is active'
    with torch.device('cpu'):  # PyTorch's own, which only names a device
        assert why_watched() is None
    assert why_watched() is None


@pytest.mark.parametrize(
    'transform',
    [
        lambda f: torch.func.grad(f)(torch.ones(())),
        lambda f: torch.func.vmap(f)(torch.ones(2)),
        lambda f: torch.func.jvp(f, (torch.ones(()),), (torch.ones(()),)),
        lambda f: torch.func.functionalize(f)(torch.ones(())),
    ],
    ids=['grad', 'vmap', 'jvp', 'functionalize'],
)
def test_transforms(transform):
    seen = []

    def function(x):
        seen.append(why_watched(x))
        return x * 1

    transform(function)
    assert seen[0] is not None


def test_a_transform_is_named():
    reasons = []
    torch.func.vmap(lambda x: reasons.append(why_watched()) or x)(torch.ones(1))
    assert reasons == ['a transform of torch.func is active']


def test_forward_mode():
    with torch.autograd.forward_ad.dual_level():
        assert why_watched() == 'forward-mode differentiation is active'


def test_tracers():
    seen = []

    def function(x):
        seen.append(why_watched(x))
        return x * 1

    torch.jit.trace(function, torch.ones(2), check_trace=False)
    make_fx(function)(torch.ones(2))
    assert seen[0] == 'a tracer or compiler is looking'
    assert seen[1] is not None

    def branch(x):
        return x + 1 if why_watched(x) is None else x + 2

    compiled = torch.compile(branch, backend='eager', fullgraph=True)
    assert compiled(torch.ones(1)).item() == 3
    assert branch(torch.ones(1)).item() == 2


@pytest.mark.skipif(
    torch.__version__ < (2, 11), reason='that of torch 2.1 compares no functions'
)
@pytest.mark.parametrize('replaced', [False, True])
def test_compilers_look_inside_without_a_graph_break(replaced, monkeypatch):
    """Nor do they warn of a cache that they look through."""
    monkeypatch.setattr(torch._dynamo.utils, 'warn_once_cache', set(), raising=False)
    model = nn.Sequential(Shifted(2, 2), nn.GELU())
    if replaced:
        model[0].shift = model[0].shift

    def branch(x):
        return x + 1 if why_changed(model) is None else x + 2

    torch._dynamo.reset()
    compiled = torch.compile(branch, backend='eager', fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert compiled(torch.zeros(1)).item() == 1 + replaced


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_exporting'), reason='this torch does not tell'
)
def test_exporters():
    class Asking(nn.Module):
        def forward(self, x):
            seen.append(is_exported())
            return x * 1

    seen = []
    Asking()(torch.ones(2))
    torch.export.export(Asking(), (torch.ones(2),), strict=False)
    assert seen[0] is False
    assert seen[-1] is True


def test_older_versions_of_torch(monkeypatch):
    """They lack what is asked, or have it elsewhere."""
    older = torch._utils.is_compiling
    assert rule.is_compiling is getattr(torch.compiler, 'is_compiling', older)
    monkeypatch.delattr(torch.compiler, 'is_compiling', raising=False)
    monkeypatch.delattr(torch.compiler, 'is_exporting', raising=False)
    monkeypatch.delattr(torch._C._functorch, 'is_legacy_batchedtensor', raising=False)
    spec = importlib.util.spec_from_file_location(f'{rule.__name__}_old', rule.__file__)
    old = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(old)
    assert old.is_compiling is older
    assert old.is_batched(torch.ones(2)) is False
    assert old.is_exported() is False


def questions(path):
    """Names in a file by which code asks who is looking at its operators."""
    names = {
        name
        for node in ast.walk(ast.parse(path.read_text('utf-8')))
        for name in (
            getattr(node, 'attr', None),
            *(
                alias.name
                for alias in getattr(node, 'names', [])
                if hasattr(alias, 'name')
            ),
        )
        if name
    }
    asking = 'traced', 'tracing', 'exported', 'exporting', 'compiling'
    return names & {*(f'is_{word}' for word in asking), 'has_fake_tensors'}


def test_only_the_forms_ask_who_is_looking():
    package = Path(mmmanikey.__file__).parent
    found = {
        path.relative_to(package): asked
        for path in package.rglob('*.py')
        if (asked := questions(path))
    }
    assert {path.parts[0] for path in found} == {'forms'}, found
