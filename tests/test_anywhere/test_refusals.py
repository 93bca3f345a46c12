"""What cannot take a key is refused in one sentence, and is as it was."""

import pytest
import small
import torch
from families import FAMILIES
from hugging_face import hugging_face
from oracles import randomize
from test_probe import PROBLEMS, READ
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import mmmanikey
from mmmanikey.attention import keyed

KEY = dict(type='VanillaK', num_charts=2, residual=True)
SPATIAL = dict(type='SpatialK', num_charts=2, residual=True)
X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


def snapshot(model):
    """All that may not change: weights, classes, attributes, what it computes."""
    weights = {n: x.clone() for n, x in model.state_dict().items()}
    modules = {n: (type(m), set(vars(m)), m.training) for n, m in model.named_modules()}
    return weights, modules


def refused(model, message, key=KEY, kind=ValueError, **options):
    """Insertion fails with this sentence, and the model is untouched."""
    weights, modules = snapshot(model)
    with pytest.raises(kind, match=message) as error:
        mmmanikey.insert_keys(model, key, **dict(dict(example=X), **options))
    assert '\n' not in str(error.value)
    now, classes = snapshot(model)
    assert classes == modules
    assert now.keys() == weights.keys()
    assert all(torch.equal(now[n], weights[n]) for n in weights)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def made(kind):
    return randomize(small.Stack(kind), std=0.3)


@pytest.mark.parametrize('kind', PROBLEMS, ids=lambda kind: kind.__name__)
def test_attentions_that_have_no_key_of_their_own(kind):
    refused(made(kind), PROBLEMS[kind])


@pytest.mark.parametrize(
    'family',
    [f for f in FAMILIES if f.remedy],
    ids=lambda family: f'{family.library}-{family.name}',
)
def test_families(family):
    message = (
        'changes nothing'
        if family.name == 'DETR'
        else ('over channels' if family.name == 'XCiT' else "read='intercept'")
    )
    model = family.model(as_it_is=True)
    refused(model, message, example=family.example)
    if family.prepare:
        refused(model, 'qkv_bias_separate=True', example=family.example)


@pytest.mark.parametrize(
    'kind', [*READ, small.OwnMatrix], ids=lambda kind: kind.__name__
)
def test_weights_that_are_read(kind):
    """Refused, unless what is computed with them is intercepted: then as if called."""
    model = made(kind)
    own = kind is small.OwnMatrix
    reads = 'a weight of its own' if own else 'reads the weight of its layer [qk]'
    refused(model, f"{reads}.*: take read='intercept'")
    expected = model(X)
    table = mmmanikey.insert_keys(model, KEY, example=X, read='intercept', verify=False)
    assert torch.equal(model(X), expected)
    layer = model.get_submodule(table[0]['module'])
    nn.init.normal_(layer.key.conv2.weight)
    k = layer.key(X).detach()
    query, key, value = model[0].project(X)
    with keyed.AddedKey(layer):
        same_query, new_key, same_value = model[0].project(X)
    assert torch.equal(same_query, query)
    assert torch.equal(same_value, value)
    change = (new_key - key).transpose(1, 2).flatten(2)
    assert torch.allclose(change, k, atol=1e-5)
    assert (model(X) - expected).abs().max() > 1e-2
    mmmanikey.remove_keys(model)
    assert torch.equal(model(X), expected)


def test_no_attention():
    refused(nn.Linear(8, 8), 'Linear has no softmax of a product of query and key')
    refused(nn.Identity(), 'on one device and has memory there, got one on none')


@pytest.mark.parametrize('where', [5, True, ['0', 1]])
def test_where_is_no_pattern(where):
    refused(small.Stack(), 'where must be patterns', kind=TypeError, where=where)


def test_where_chooses_nothing():
    refused(
        made(small.Attention),
        "where='blocks.*' chooses none of .* 0, 1",
        where='blocks.*',
    )


def test_one_layer_of_several_attentions():
    model = randomize(small.Shared(), std=0.3)
    refused(model, r'first \(as 1 more\) shares the layer of its key with others')


def test_a_second_key():
    model = made(small.Attention)
    mmmanikey.insert_keys(model, KEY, example=X, where='0')
    refused(model, 'has a key already: remove_keys')
    mmmanikey.insert_keys(model, KEY, example=X, where='1')
    refused(model, 'has a key already: remove_keys', where='1')
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    mmmanikey.insert_keys(attention, KEY, example=(X, X, X))
    with pytest.raises(ValueError, match='has a key already'):
        mmmanikey.insert_keys(attention, KEY, example=(X, X, X))


def test_an_example_that_does_not_fit():
    model = made(small.Attention)
    refused(
        model, r'does not run on the example \[\(2, 5\)\].*by example=', example=(2, 5)
    )
    refused(model, 'does not run on the example', example=dict(images=X))


def test_a_model_on_two_devices_or_none():
    model = made(small.Attention)
    model[1].to('meta')
    with pytest.raises(ValueError, match='on one device .* got one on cpu and meta'):
        mmmanikey.insert_keys(model, KEY, example=X)
    with pytest.raises(ValueError, match='has memory there, got one on meta'):
        mmmanikey.insert_keys(model.to('meta'), KEY, example=X)


def test_wrapped_models():
    with pytest.raises(ValueError, match='before it is compiled or distributed'):
        mmmanikey.insert_keys(torch.compile(made(small.Attention)), KEY, example=X)
    model = made(small.Attention)
    model[1] = torch.compile(model[1])
    with pytest.raises(ValueError, match='before it is compiled or distributed'):
        mmmanikey.insert_keys(model, KEY, example=X)


def test_lazy_layers():
    model = made(small.Attention)
    model[1].qkv = nn.LazyLinear(24)
    with pytest.raises(ValueError, match='a model that has run: some layers are lazy'):
        mmmanikey.insert_keys(model, KEY, example=X)
    model(X)
    mmmanikey.insert_keys(model, KEY, example=X)


def test_a_model_that_cannot_be_copied():
    model = made(small.Attention)
    model.map = model(X)  # with its graph, as code that draws attention keeps it
    with pytest.raises(
        ValueError, match='in a copy .* Stack cannot be copied: Runtime'
    ):
        mmmanikey.insert_keys(model, KEY, example=X)


def test_weights_that_are_no_plain_parameters():
    model = made(small.Attention)
    weight_norm(model[0].qkv)
    with pytest.raises(ValueError, match='0 makes its key with a weight that is no pl'):
        mmmanikey.insert_keys(model, KEY, example=X)


def test_what_changes_nothing_and_what_is_not_called():
    """Found by one pass and backward; without it nobody would be told."""
    model = nn.Sequential(made(small.Attention), randomize(small.Unused(), std=0.3))
    refused(model, 'no gradient reaches the key of 1.qkv: its attention changes noth')
    model = nn.Sequential(made(small.Attention), randomize(small.Branch(), std=0.3))
    refused(model, 'the key of 1.attention.qkv is never called')
    mmmanikey.insert_keys(model, KEY, example=X, verify=False)


def test_a_key_that_does_not_start_at_zero(monkeypatch):
    from mmmanikey.keys import VanillaK

    monkeypatch.setattr(VanillaK, 'zero_last_layer', lambda self: None)
    refused(made(small.Attention), 'keys of zero change the output by')


ARGUMENTS = (
    (dict(key='VanillaK'), TypeError, "key must be a dict with 'type', got 'VanillaK'"),
    (dict(key=dict(KEY, residual=False)), ValueError, 'set residual=True'),
    (dict(key=dict(type='NoK')), ValueError, "unknown key type 'NoK'"),
    (dict(key=dict(KEY, charts=2)), ValueError, 'VanillaK has no argument charts'),
    (dict(key=dict(KEY, out_dims=24)), ValueError, 'to 24, and that of 0 8 to 8; leav'),
    (dict(key=dict(KEY, embed_dims=4)), ValueError, 'maps 4 channels to 4, and that'),
    (dict(where=['0', '2*']), ValueError, r"where='2\*' chooses none of .* 0, 1"),
    (dict(where=[]), ValueError, r'where=\[\] chooses none of the attentions 0, 1'),
    (dict(example=()), ValueError, r'does not run on the example \[\]'),
    (dict(read='yes'), ValueError, "read must be one of 'refuse', 'intercept'"),
    (dict(verify=1), TypeError, 'verify must be True or False, got 1'),
    (dict(window=(0, 2)), ValueError, 'window must be a positive integer, got 0'),
    (dict(window='7x7'), ValueError, "window must be .* got '7x7'"),
)


@pytest.mark.parametrize(('options', 'kind', 'message'), ARGUMENTS)
def test_arguments(options, kind, message):
    refused(made(small.Attention), message, kind=kind, **options)


def test_what_is_no_model():
    with pytest.raises(TypeError, match='keys go into a torch.nn.Module, got dict'):
        mmmanikey.insert_keys({}, KEY)


def test_remove_from_a_model_without_keys():
    with pytest.raises(ValueError, match='Stack has no inserted keys to remove'):
        mmmanikey.remove_keys(made(small.Attention))


def test_a_window_where_there_is_none():
    message = (
        r'SpatialK mixes .* of no window that it names: declare .*=\(height, width\)'
    )
    refused(made(small.Attention), message, key=SPATIAL)
    message = r'no window \(4, 4\): declare'
    refused(made(small.Attention), message, key=SPATIAL, window=4)
    refused(made(small.Attention), r'no window \(1, 2\)', key=SPATIAL, window=(1, 2))


def test_the_dtype_of_the_model_is_the_keys():
    model = made(small.Attention).bfloat16()
    mmmanikey.insert_keys(model, KEY, example=X)
    assert {p.dtype for p in mmmanikey.key_parameters(model)} == {torch.bfloat16}
    assert model(X.bfloat16()).dtype == torch.bfloat16


def test_modes_stay():
    model = made(small.Attention)
    model[0].eval()
    mmmanikey.insert_keys(model, KEY, example=X)
    assert [m.training for m in model] == [False, True]
    assert [m.qkv.key.training for m in model] == [False, True]


def test_transformers_example_by_name():
    model = hugging_face(
        'ViT',
        image_size=32,
        patch_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )()
    images = torch.randn(1, 3, 32, 32)
    table = mmmanikey.insert_keys(model, KEY, example=dict(pixel_values=images))
    assert [row['module'] for row in table] == [
        'encoder.layer.0.attention.attention.key'
    ]
