"""Which blocks of Swin are whole for their form, and which must be called."""

from types import SimpleNamespace

import pytest
import torch
from swin_blocks import make
from torch import nn

from mmmanikey import forms
from mmmanikey.forms import windows
from mmmanikey.forms.swin_block import WholeBlock


class OnCuda(SimpleNamespace):
    """What the choice looks at: images on a device that need not be there."""

    def __len__(self):
        return 2


def changed(change):
    block = make('SpatialK')
    change(block)
    return block


@pytest.mark.parametrize(
    ('change', 'why'),
    [
        (lambda b: b.norm1.register_forward_hook(print), 'a LayerNorm inside has'),
        (lambda b: setattr(b, 'norm2', nn.Identity()), 'norm2 is a Identity'),
        (lambda b: setattr(b, 'norm1', nn.LayerNorm(16, bias=False)), 'a norm has no'),
        (lambda b: b.norm2.half(), 'a norm is in torch.float16'),
        (lambda b: setattr(b.ffn, 'gamma2', nn.Linear(16, 16)), 'ffn.gamma2 is a'),
        (lambda b: setattr(b.ffn, 'add_identity', False), 'the feed-forward network'),
        (lambda b: b.ffn.layers.append(nn.Identity()), 'the feed-forward network has'),
        (lambda b: setattr(b.ffn.layers[2], 'p', 0.1), 'the output of a layer is'),
        (lambda b: setattr(b.attn.w_msa.proj_drop, 'p', 0.1), 'the output of a layer'),
        (lambda b: setattr(b.ffn.layers[0][2], 'p', 0.1), 'the hidden layer is'),
        (lambda b: setattr(b.attn.w_msa.attn_drop, 'p', 0.1), 'attention weights are'),
        (lambda b: setattr(b.attn, 'drop', nn.Dropout()), 'attn.drop is a Dropout'),
    ],
)
def test_other_blocks_are_called(change, why, monkeypatch):
    monkeypatch.setattr(windows, 'has_kernel', lambda *_: True)
    x = OnCuda(dtype=torch.float64, device=torch.device('cuda'), is_cuda=True)
    for block, reason in ((make('SpatialK'), None), (changed(change), why)):
        ((_, found),) = forms.reasons(block, x, (4, 4))
        assert found is None if reason is None else found.startswith(reason)


class Other(nn.Module):
    """No layer that anybody knows."""


@pytest.mark.parametrize('path', WholeBlock.replaces)
def test_a_layer_of_another_class_is_called(path, monkeypatch):
    monkeypatch.setattr(windows, 'has_kernel', lambda *_: True)
    block = make(None if path.endswith('qkv') else 'SpatialK')
    parent, _, name = path.rpartition('.')
    layers = block.get_submodule(parent)._modules
    assert name in layers
    layers[name] = Other()
    x = OnCuda(dtype=torch.float64, device=torch.device('cuda'), is_cuda=True)
    ((_, reason),) = forms.reasons(block, x, (4, 4))
    assert reason == f'{path} is a Other'


@pytest.mark.parametrize('path', WholeBlock.replaces)
def test_a_layer_of_a_class_that_was_changed_is_called(path, monkeypatch):
    monkeypatch.setattr(windows, 'has_kernel', lambda *_: True)
    block = make(None if path.endswith('qkv') else 'SpatialK')
    monkeypatch.setattr(type(block.get_submodule(path)), 'forward', Other.forward)
    x = OnCuda(dtype=torch.float64, device=torch.device('cuda'), is_cuda=True)
    ((_, reason),) = forms.reasons(block, x, (4, 4))
    assert reason.endswith('was replaced')


def test_the_function_of_a_norm_was_changed(monkeypatch):
    monkeypatch.setattr(windows, 'has_kernel', lambda *_: True)
    monkeypatch.setattr(nn.functional, 'layer_norm', None)
    x = OnCuda(dtype=torch.float64, device=torch.device('cuda'), is_cuda=True)
    ((_, reason),) = forms.reasons(make(), x, (4, 4))
    assert reason.endswith('was replaced')


def test_every_layer_is_looked_at():
    """But the key's, at which its own forms look."""
    names = {n for key in (None, 'SpatialK') for n, _ in make(key).named_modules()}
    assert {*WholeBlock.replaces} < names
    key = 'attn.w_msa.key'
    assert names - {*WholeBlock.replaces} == {'', key, f'{key}.conv1', f'{key}.act'}


def test_on_a_cpu_nothing_of_a_gpu_is_asked_for():
    ((_, reason),) = forms.reasons(make(), torch.ones(2, 16, 16), (4, 4))
    assert reason == 'the device is cpu'
