"""What PyTorch does to layers once they have keys: the keys go on working."""

import copy
import pickle

import pytest
import small
import torch
from replicas import replica_of
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import weight_norm as older_weight_norm

import mmmanikey

KEY = dict(type='VanillaK', num_charts=2, residual=True)
X = torch.rand(2, 5, 8)


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x)[0]


KINDS = [
    small.Attention,
    small.Matrix,
    small.Read,
    small.ReadConvolution,
    small.ReadMatrix,
    small.OwnMatrix,
    small.OwnMatrices,
    TorchAttention,
]
CHANGES = dict(
    weight_norm=parametrizations.weight_norm,
    spectral_norm=parametrizations.spectral_norm,
    older_weight_norm=older_weight_norm,
    pruning=lambda layer, name: prune.random_unstructured(layer, name, 0.3),
)

each_kind = pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.__name__)
each_change = pytest.mark.parametrize('change', CHANGES)


def with_and_without_key(kind):
    """Two models, the layer that has the key in the first, and the layer's path."""
    torch.manual_seed(0)
    stock = nn.Sequential(kind()).eval()
    model = copy.deepcopy(stock)
    (row,) = mmmanikey.insert_keys(
        model, KEY, example=X, read='intercept', verify=False
    )
    layer = model.get_submodule(row['module'])
    nn.init.normal_(layer.key.conv2.weight)
    return model, stock, layer, row['module']


def weight_of(layer):
    """Name of the weight that makes the key."""
    names = 'kernel', 'in_proj_weight', 'weight'
    return next(name for name in names if name in layer._parameters)


def shows_its_key(model, stock, layer):
    """Whether the model without its key is the stock one, and with it another."""
    key = layer.key.conv2.weight
    learned, with_key = key.detach().clone(), model(X)
    nn.init.zeros_(key)
    without = model(X)
    key.data.copy_(learned)
    assert torch.allclose(without, stock(X), atol=1e-6)
    return (with_key - without).abs().max() > 1e-3


@each_change
@each_kind
def test_weights_that_are_computed(kind, change):
    model, stock, layer, path = with_and_without_key(kind)
    assert shows_its_key(model, stock, layer)
    name = weight_of(layer)
    for each in (layer, stock.get_submodule(path)):
        torch.manual_seed(0)
        CHANGES[change](each, name)
    assert name not in layer._parameters
    assert shows_its_key(model, stock, layer)
    if parametrize.is_parametrized(layer):
        twin = copy.deepcopy(model)  # as for a moving average
        assert torch.equal(twin(X), model(X))
        compiled = torch.compile(twin, backend='eager')
        assert torch.allclose(compiled(X), model(X), atol=1e-6)
        with pytest.raises(ValueError, match=f'weights of {path} were parametrised'):
            mmmanikey.remove_keys(model)
        assert shows_its_key(model, stock, layer)
        for each in (layer, stock.get_submodule(path)):
            parametrize.remove_parametrizations(each, name)
        assert shows_its_key(model, stock, layer)
    mmmanikey.remove_keys(model)
    assert torch.equal(model(X), stock(X))


@each_kind
def test_replicas_of_data_parallel(kind):
    model, *_ = with_and_without_key(kind)
    replica = replica_of(model)
    assert torch.equal(replica(X), model(X))
    replica(X).square().sum().backward()
    assert all(p.grad is not None for p in mmmanikey.key_parameters(model))


@each_kind
def test_graphs_of_fx(kind):
    """As torchvision's ``create_feature_extractor`` makes them."""
    model, *_ = with_and_without_key(kind)
    assert torch.equal(torch.fx.symbolic_trace(model)(X), model(X))


class OwnNames(small.Attention):
    """It has names that a key could want, and something that is not to be pickled."""

    def __init__(self):
        super().__init__()
        self.key_weight = nn.Parameter(torch.randn(8, 8) / 3)
        self.key_layer = nn.Linear(8, 8)
        self.report = lambda: None

    def project(self, x):
        q, _, v = super().project(x)
        k = self.key_layer(x) @ self.key_weight
        return q, k.unflatten(-1, (2, 4)).transpose(1, 2), v

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != 'report'}


def test_names_and_state_of_an_attention_stay_its_own():
    model = nn.Sequential(OwnNames())
    expected = model(X)
    mmmanikey.insert_keys(model, KEY, example=X, read='intercept')
    assert torch.equal(model(X), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), expected)


def test_a_new_layer_of_the_class_has_no_key():
    """As adapters make one to put in its place, of classes without arguments too."""
    _, _, linear, _ = with_and_without_key(small.Attention)
    assert type(type(linear)(8, 24)) is nn.Linear
    _, _, kernel, _ = with_and_without_key(small.Matrix)
    assert type(type(kernel)()) is small.Kernel


class Scaled(small.Read):
    """It reads the weight of its layer, and has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return super().forward(x) * self.scale


def test_attentions_that_read_a_weight_may_be_parametrised():
    model, stock, layer, _ = with_and_without_key(Scaled)
    for each in (model[0], stock[0]):
        parametrize.register_parametrization(each, 'scale', nn.Tanh())
    assert shows_its_key(model, stock, layer)
    with pytest.raises(ValueError, match='weights of 0 were parametrised'):
        mmmanikey.remove_keys(model)
    assert shows_its_key(model, stock, layer)
