"""The layer and the channels of a key are found whatever an attention is like."""

import pytest
import small
import torch
from oracles import randomize
from torch import nn

from mmmanikey.anywhere.probe import find_sites

THIRDS = list(range(8, 16))
FOUND = {
    small.Attention: ('qkv', THIRDS),
    small.Named: ('qkv', THIRDS),
    small.NamedLast: ('qkv', THIRDS),
    small.NamedInput: ('qkv', THIRDS),
    small.AddedProduct: ('qkv', THIRDS),
    small.Softmax: ('qkv', THIRDS),
    small.Transposed: ('qkv', THIRDS),
    small.Einsum: ('qkv', THIRDS),
    small.EinsumOfKeysFirst: ('qkv', THIRDS),
    small.LogitsTransposed: ('qkv', THIRDS),
    small.HeadsLast: ('qkv', THIRDS),
    small.TalkingHeads: ('qkv', THIRDS),
    small.MixedHeadsLast: ('qkv', THIRDS),
    small.NamedProduct: ('qkv', THIRDS),
    small.OneHead: ('qkv', THIRDS),
    small.Twice: ('qkv', THIRDS),
    small.HeadsOutermost: ('qkv', [4, 5, 6, 7, 16, 17, 18, 19]),
    small.KeyLast: ('qkv', list(range(16, 24))),
    small.Matrix: ('kernel', list(range(8))),
    small.Read: ('qkv', THIRDS),
    small.ReadConvolution: ('qkv', THIRDS),
    small.ReadMatrix: ('kernel', list(range(8))),
    small.Unused: ('qkv', THIRDS),
}
READ = (small.Read, small.ReadConvolution, small.ReadMatrix)


@pytest.mark.parametrize('kind', FOUND, ids=lambda kind: kind.__name__)
def test_layer_and_channels(kind):
    model = nn.Sequential(randomize(kind()), nn.Linear(8, 3))
    x = torch.randn(2, 5, 8)
    (site,) = find_sites(model, lambda: model(x))
    layer, rows = FOUND[kind]
    assert (site.attention, site.layer, site.path) == ('0', f'0.{layer}', layer)
    assert site.rows.tolist() == rows
    assert site.heads == 2
    assert site.in_shape == (2, 5, 8)
    assert site.called == (kind not in READ)
    assert site.problem == ''


PROBLEMS = {
    small.SharedKeyAndQuery: 'makes its key and its query in one',
    small.SharedKeyAndValue: 'makes its key and its value in one',
    small.NotProjected: 'makes its key and its query in one',
    small.OverHeads: 'takes a softmax of a product in which no key was found',
    small.OverChannels: 'attends over channels, not over tokens',
    small.LearnedKey: 'has a key that no layer of the model makes',
    small.Convolved: 'makes its key by a 3 convolution',
    small.Sum: r'makes its key by several layers \(.*qkv, .*adapter\)',
}


def test_a_softmax_without_a_dimension():
    class Head(nn.Module):
        def forward(self, x):
            return nn.functional.softmax(x.mean(1))

    model = nn.Sequential(small.Attention(), Head())
    with pytest.warns(UserWarning, match='Implicit dimension'):
        (site,) = find_sites(model, lambda: model(torch.randn(2, 5, 8)))
    assert site.layer == '0.qkv'


def test_probing_leaves_no_trace():
    model = small.Stack()
    before = {n: dict(vars(m)) for n, m in model.named_modules()}
    find_sites(model, lambda: model(torch.randn(1, 3, 8)))
    after = {n: dict(vars(m)) for n, m in model.named_modules()}
    assert str(before) == str(after)
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_the_input_of_a_softmax_that_is_no_attention_is_none():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.two(x).softmax(-1) * self.one(x)

    model = Gate()
    assert find_sites(model, lambda: model(torch.randn(2, 3, 8))) == []
