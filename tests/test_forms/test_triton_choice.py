"""When SpatialK's Triton kernels are chosen."""

import sys
from types import SimpleNamespace

import pytest
import torch
from oracles import TOLERANCE, assert_same, plain

from mmmanikey import forms
from mmmanikey.forms import triton_choice as choice
from mmmanikey.keys import SpatialK, build_key


@pytest.fixture
def ampere(monkeypatch):
    """As if any CUDA device were an Ampere GPU with Triton."""
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    monkeypatch.setattr(torch.version, 'hip', None)
    monkeypatch.setattr(choice, 'has_triton', lambda: True)
    choice.serves.cache_clear()
    yield
    choice.serves.cache_clear()


def tensor(dtype=torch.float32, device='cuda:0'):
    """What the choice looks at; a CUDA tensor needs a GPU."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def applies(x, *parameters, num_tokens=49):
    return choice.why_not(num_tokens, x, *parameters) is None


def test_chosen_for_small_windows_on_cuda(ampere):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert applies(tensor(dtype), tensor(dtype))
    assert applies(tensor(), num_tokens=144)
    assert not applies(tensor(), num_tokens=145)
    assert not applies(tensor(torch.float64))
    assert not applies(tensor(device='cpu'))
    assert not applies(tensor(), tensor(torch.float16))
    assert not applies(tensor(), tensor(device='cuda:1'))


def test_all_tensors_are_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr(choice, 'why_not', lambda _, x, *tensors: seen.extend(tensors))
    key = SpatialK(8, window_size=2)
    forms.find(key, torch.randn(3, 4, 8), None)
    assert {each.data_ptr() for each in seen} == {
        each.data_ptr() for each in (key.conv1.weight, key.conv1.bias, key.scale)
    }


@pytest.mark.parametrize(
    ('owner', 'name', 'value'),
    [
        (torch.cuda, 'get_device_capability', lambda device: (7, 5)),
        (torch.version, 'hip', '6.4'),
        (choice, 'has_triton', lambda: False),
        (choice, 'given_up', [RuntimeError('Failed to find C compiler')]),
    ],
)
def test_not_chosen_for_other_gpus_or_without_triton(
    ampere, owner, name, value, monkeypatch
):
    monkeypatch.setattr(owner, name, value)
    assert not applies(tensor())


@pytest.mark.parametrize(
    ('module', 'found'),
    [
        (None, False),
        (SimpleNamespace(__version__='2.3.1'), False),
        (SimpleNamespace(__version__='3.0.0'), True),
    ],
)
def test_finds_triton(module, found, monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', module)
    assert choice.has_triton() is found


@pytest.mark.xdist_group('fork')
def test_package_needs_no_triton(fork, tmp_path):
    """No part of it can be imported, also where a framework has imported it."""
    code = """
import sys
for name in ['triton', *sys.modules]:
    if name.partition('.')[0] == 'triton':
        sys.modules[name] = None
import mmmanikey.keys
"""
    fork(tmp_path, code)


def test_switched_off_or_traced(monkeypatch):
    """The kernels are not even imported, wherever they would apply."""
    monkeypatch.setattr(choice, 'why_not', lambda *tensors: None)
    monkeypatch.setitem(sys.modules, 'mmmanikey.forms.triton_mixing', None)
    cfg = dict(type='SpatialK', num_charts=2)
    key = build_key(cfg, 8, 2)
    x = torch.randn(3, 4, 8)
    with pytest.raises(ImportError):
        key(x)
    traced = torch.compile(key, backend='eager', fullgraph=True)
    assert_same(traced(x), plain(key)(x), TOLERANCE[x.dtype])
    key = build_key(dict(cfg, triton=False), 8, 2)
    assert_same(key(x), plain(key)(x), TOLERANCE[x.dtype])


@pytest.mark.parametrize('value', [None, 'auto', 1])
def test_switch_is_a_bool(value):
    with pytest.raises(TypeError, match='triton must be True or False'):
        SpatialK(8, window_size=2, triton=value)
