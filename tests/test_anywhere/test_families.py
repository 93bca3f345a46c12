"""Every family: taken with all that is asked of it, or refused in one sentence."""

import copy
import functools
import pickle
import warnings

import onnxruntime
import peft
import pytest
import torch
from families import FAMILIES
from oracles import assert_same
from torch import nn

import mmmanikey
from mmmanikey.attention import keyed

KEY = dict(type='VanillaK', num_charts=2, hidden_ratio=0.5, residual=True)
ID = '{0.library}-{0.name}'.format


def outputs(model, x):
    """All tensors that a model returns, as one."""
    found, todo = [], [model(x)]
    while todo:
        item = todo.pop(0)
        if torch.is_tensor(item):
            found.append(item.flatten())
        elif item is not None:
            todo += item.values() if hasattr(item, 'values') else item
    return torch.cat(found)


@torch.no_grad()
def fixed(model, x):
    return outputs(model, x)


class Case:
    """A family's stock model, and copies of it with keys."""

    def __init__(self, family):
        self.family = family
        self.x = torch.randn(family.example, generator=torch.Generator().manual_seed(1))
        self.stock = family.model()
        self.expected = fixed(self.stock, self.x)

    def keyed(self, key=KEY, stock=None):
        """A copy with keys."""
        model = copy.deepcopy(stock or self.stock)
        mmmanikey.insert_keys(model, key, example=self.x, **self.family.around)
        return model

    @functools.cached_property
    def trained(self):
        """A copy with keys that was trained for ten steps, with all its weights."""
        torch.manual_seed(2)
        model = self.keyed()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        target = torch.randn_like(self.expected)
        for step in range(10):
            optimizer.zero_grad()
            (outputs(model, self.x) - target).square().mean().backward()
            if step == 1:
                self.gradients = [p.grad for p in mmmanikey.key_parameters(model)]
            optimizer.step()
        return model


@functools.cache
def case_of(name):
    return Case(BY_NAME[name])


@pytest.fixture
def case(name):
    return case_of(name)


BY_NAME = {ID(family): family for family in FAMILIES}


def together(names):
    """The tests of a family are for one worker, which builds and trains it once."""
    in_groups = [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in names]
    return pytest.mark.parametrize('name', in_groups)


each = together(BY_NAME)


def close(actual, expected, tolerance=1e-6):
    assert_same(actual, expected, tolerance)


@each
def test_starts_as_the_stock_network_and_leaves_it(case):
    model, stock = case.keyed(), case.stock
    close(fixed(model, case.x), case.expected)
    names, added = set(stock.state_dict()), set(model.state_dict())
    assert names < added
    assert all('.key.' in name for name in added - names)
    own, ours = (
        m.load_state_dict(stock.state_dict(), strict=False) for m in (stock, model)
    )
    assert set(ours.missing_keys) - set(own.missing_keys) == added - names
    assert not ours.unexpected_keys
    mmmanikey.remove_keys(model)
    assert set(model.state_dict()) == names
    assert [type(m) for m in model.modules()] == [type(m) for m in stock.modules()]
    close(fixed(model, case.x), case.expected, 0)


@each
def test_keys_learn_and_are_kept(case, tmp_path):
    model = case.trained
    assert all(grad is not None and grad.abs().max() > 0 for grad in case.gradients)
    learned = fixed(model, case.x)
    assert (learned - case.expected).abs().max() > 1e-3
    torch.save(model.state_dict(), tmp_path / 'whole.pth')
    again = case.keyed(stock=case.family.model())
    weights = torch.load(tmp_path / 'whole.pth', weights_only=True)
    found = again.load_state_dict(weights, strict=False)
    own = case.stock.load_state_dict(case.stock.state_dict(), strict=False)
    assert found == own  # some leave out what they compute
    others = [again, copy.deepcopy(model)]
    if case.family.can_be_pickled:
        others.append(pickle.loads(pickle.dumps(model)))
    for other in others:
        close(fixed(other, case.x), learned, 0)
    with torch.autocast('cpu', torch.bfloat16):
        low = outputs(model, case.x)
    assert torch.isfinite(low).all()
    assert (low.float() - learned).norm() < 0.2 * learned.norm()


@each
def test_a_linear_key_is_a_change_of_the_weight(case):
    """What the key is added to is what its rows of the weight make."""
    model, stock = case.keyed(dict(KEY, act_cfg=None)), copy.deepcopy(case.stock)
    layers = keyed.keyed_layers(model)
    for name, layer in layers.items():
        nn.init.normal_(layer.key.conv2.weight)
        first, _, last = layer.key.fold()
        change_key(stock.get_submodule(name), layer, last.weight @ first.weight)
    expected = fixed(stock, case.x)
    change = (expected - case.expected).abs().max()
    assert change > 1e-4 * case.expected.abs().max()
    assert (fixed(model, case.x) - expected).abs().max() < 0.02 * change


@torch.no_grad()
def change_key(stock, layer, change):
    if isinstance(stock, nn.MultiheadAttention):
        weight = stock.in_proj_weight
        rows = slice(len(change), 2 * len(change))
        if weight is None:
            weight, rows = stock.k_proj_weight, slice(None)
        weight[rows] += change
        return
    start = layer.key_place[0]
    rows = layer.key_rows if layer.key_rows is not None else slice(start, None)
    rows = rows if layer.key_rows is not None else slice(start, start + len(change))
    stock.weight[rows] += change.view(*change.shape, *[1] * (stock.weight.dim() - 2))


@each
def test_softmax_ignores_a_constant_key(case):
    """So what the probe found is the key, and neither query nor value."""
    model = case.keyed()
    for layer in keyed.keyed_layers(model).values():
        nn.init.zeros_(layer.key.conv1.weight)
        nn.init.normal_(layer.key.conv1.bias)
        nn.init.normal_(layer.key.conv2.weight)
    change = (fixed(model, case.x) - case.expected).abs().max()
    assert (change < 1e-5 * case.expected.abs().max()) == case.family.ignores_shifts


@each
def test_adapters_of_peft(case):
    """LoRA on the very layers that carry the keys, which go on learning."""
    model = case.keyed()
    layers = list(keyed.keyed_layers(model))
    lora = peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False)
    adapted = peft.get_peft_model(model, lora)
    keys = mmmanikey.key_parameters(adapted)
    assert keys
    assert not any(p.requires_grad for p in keys)  # as all that it finds
    for p in keys:
        p.requires_grad_()
    start = fixed(adapted, case.x)
    change = (start - case.expected).abs().max()
    # whoever reads a weight passes an adapter of its layer by, also without keys
    is_read = 'read' in case.family.around
    assert (change > 1e-5 * case.expected.abs().max()) != is_read
    learning = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        outputs(adapted, case.x).square().mean().backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in keys)
    learned = fixed(adapted, case.x)
    merged = adapted.merge_and_unload()
    if not is_read:  # merged, it is in the weight that is read
        close(fixed(merged, case.x), learned, 1e-5)
    assert list(keyed.keyed_layers(merged)) == layers


@pytest.mark.slow
@each
def test_compiles_without_new_graph_breaks(case):
    found, graphs = captured(case.trained, case.x)
    close(found, fixed(case.trained, case.x), 1e-5)
    assert graphs == 1 or graphs <= captured(case.stock, case.x)[1]


def captured(model, x):
    """What a compiled model computes, and of how many graphs it is made."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    return fixed(torch.compile(model, backend=count), x), len(graphs)


#: A layer that is called, and a weight that is read.
COMPILED = {'timm-ViT': 'blocks.0.attn', 'torchvision-Swin': 'features.1.0.attn'}


@pytest.mark.slow
@together(COMPILED)
def test_inductor_computes_an_attention_and_its_gradients(case, name):
    """One attention of the model: C++ takes its time to be compiled."""
    plain, compiled = case.trained, copy.deepcopy(case.trained)
    torch._dynamo.reset()
    compiled.get_submodule(COMPILED[name]).compile(fullgraph=True)
    found, expected = (outputs(model, case.x) for model in (compiled, plain))
    close(found.detach(), expected.detach(), 1e-5)
    for model, out in ((compiled, found), (plain, expected)):
        model.zero_grad()
        out.square().mean().backward()
    of_both = zip(compiled.parameters(), plain.parameters(), strict=True)
    grads = [(p.grad, q.grad) for p, q in of_both]
    for ours, theirs in grads:
        close(ours / theirs.abs().max(), theirs / theirs.abs().max(), 1e-4)


@pytest.mark.slow
@each
def test_exports_to_onnx(case, tmp_path):
    if not case.family.onnx:  # a layer that ONNX Runtime has not
        with pytest.raises(Exception, match='NOT_IMPLEMENTED'):
            exported(case.stock, 'trace', case.x, tmp_path)
        return
    found = exported(case.trained, case.family.onnx, case.x, tmp_path)
    close(found, fixed(case.trained, case.x), 1e-4)


def exported(model, exporter, x, folder):
    """What ONNX Runtime computes of a model."""
    path = str(folder / 'model.onnx')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if exporter == 'trace':
            torch.onnx.export(model, (x,), path, dynamo=False, opset_version=17)
        else:
            torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    found = session.run(None, {given.name: x.numpy()})
    return torch.cat([torch.from_numpy(part).flatten() for part in found])
